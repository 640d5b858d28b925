"""``kdengine report``: tables, plots and a page about runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from kdengine.cli.options import as_json

if TYPE_CHECKING:
    from kdengine.report.table import Table

__all__ = ["command"]


@click.command("report")
@click.argument("folders", nargs=-1, required=True, metavar="FOLDER...")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "markdown", "csv"]),
    default="text",
    help="Format of the printed table.",
    show_default=True,
)
@click.option("--html", metavar="FILE", help="Also write one self-contained page: table, curves, loss terms, settings.")
@click.option("--png", metavar="FILE", help="Also write the curves as a PNG.")
@click.option("--mixed", is_flag=True, help="Allow runs with different data or training settings in one table.")
@as_json
def command(folders: tuple[str, ...], form: str, html: str | None, png: str | None, mixed: bool, as_json: bool) -> None:
    r"""Print one table over run folders, comparisons, or all runs below a folder.

    Runs that failed or are not finished are listed with the scores they reached.

    \b
    kdengine report runs/st runs/rkd --html report.html
    """
    from kdengine.report.curves import draw_curves
    from kdengine.report.page import table_of, write_page

    table = table_of(folders, mixed)
    if png:
        _write(png, lambda: draw_curves(folders).savefig(png, format="png"))
    if html:
        _write(html, lambda: write_page(html, folders, table))
    _print(table, "json" if as_json else form)


def _print(table: Table, form: str) -> None:
    from kdengine.cli.tables import print_table

    if form == "json":
        click.echo(json.dumps(table.to_dict()))
    elif form == "text":
        click.echo(table.caption + "\n")
        print_table(table.columns, table.rows)
    else:
        click.echo(table.to_markdown() if form == "markdown" else table.to_csv(), nl=False)


def _write(file: str, write: Callable[[], Any]) -> None:
    """Write a file and report that on standard error; standard output holds the table alone.

    Raises:
        SettingsError: the file cannot be written.
    """
    from kdengine.errors import SettingsError

    try:
        write()
    except OSError as error:
        raise SettingsError(f"'{file}' cannot be written: {error.strerror}.") from error
    click.echo(f"Wrote {file}", err=True)
