"""``kdengine report``: tables over finished runs."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from kdengine.cli.options import as_json

__all__ = ["command"]


@click.command("report")
@click.argument("folders", nargs=-1, required=True, metavar="FOLDER...")
@click.option("--format", "form", type=click.Choice(["text", "markdown", "csv"]), default="text", help="How to print it.")
@click.option("--mixed", is_flag=True, help="Allow runs on different data in one table.")
@as_json
def command(folders: tuple[str, ...], form: str, mixed: bool, as_json: bool) -> None:
    """Print one table over several run folders: teacher and students, last and best accuracy."""
    from kdengine.cli.tables import print_table
    from kdengine.report import results_table

    table = results_table(folders, mixed)
    if as_json:
        click.echo(json.dumps(asdict(table)))
    elif form == "text":
        click.echo(table.caption + "\n")
        print_table(table.columns, table.rows)
    else:
        click.echo(table.to_markdown() if form == "markdown" else table.to_csv(), nl=False)
