"""``kdengine report``: tables, plots and a page about runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from kdengine.cli.options import as_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from kdengine.report.table import Table

__all__ = ["command"]

NEEDED = {
    "gains": "comparison in which a method and the plain student have finished a trial. Name the folder of one.",
    "tradeoff": "comparison of several students whose latency is known. Name the folder of one; 'kdengine benchmark FOLDER' "
    "measures what was not measured.",
    "sweep": "sweep. Name a folder of 'kdengine sweep'.",
}
"""What a picture needs, by the option that asks for it."""


@click.command("report")
@click.argument("folders", nargs=-1, required=True, metavar="FOLDER...")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "markdown", "csv"]),
    help="Format of the printed table.  [default: text]",
)
@click.option("--html", metavar="FILE", help="Also write one self-contained page: table, curves, loss terms, settings.")
@click.option("--png", metavar="FILE", help="Also write the curves as a PNG.")
@click.option("--figure", metavar="FILE", help="Also write the curves as FILE.pdf, FILE.svg or FILE.png.")
@click.option("--gains", metavar="FILE", help="Also write the gains of a comparison with their intervals, likewise.")
@click.option("--tradeoff", metavar="FILE", help="Also write score over latency, of several students, likewise.")
@click.option("--sweep", metavar="FILE", help="Also write the grid of a sweep, likewise.")
@click.option("--mixed", is_flag=True, help="Put runs with different data or training settings into one table.")
@as_json
def command(
    folders: tuple[str, ...],
    form: str | None,
    html: str | None,
    png: str | None,
    figure: str | None,
    gains: str | None,
    tradeoff: str | None,
    sweep: str | None,
    mixed: bool,
    as_json: bool,
) -> None:
    r"""Print a table over run folders, comparisons, or all runs below a folder.

    Runs on different data, or trained with different settings, get a table for each group. Runs that failed or are not
    finished are listed with the scores they reached.

    \b
    kdengine report runs/st runs/rkd --html report.html
    """
    if as_json and form is not None:
        raise click.UsageError(f"--json and --format {form} are two formats of one table: leave one of them out.")
    from kdengine.report.grouped import tables_of
    from kdengine.report.page import write_page
    from kdengine.report.saving import format_of, save_figure

    wanted = {"curves": figure, "gains": gains, "tradeoff": tradeoff, "sweep": sweep}
    kinds = {file: format_of(file) for file in wanted.values() if file}
    drawn = [(file, _drawn(name, file, folders)) for name, file in wanted.items() if file]
    tables = tables_of(folders, mixed)
    if png:
        curves = _drawn("curves", png, folders)
        _write(png, lambda: save_figure(curves, png, "png"))
    if html:
        _write(html, lambda: write_page(html, folders, tables))
    for file, picture in drawn:
        _write(file, partial(save_figure, picture, file, kinds[file]))
    _print(tables, "json" if as_json else form or "text")


def _drawn(name: str, file: str, folders: Sequence[str]) -> Figure:
    """A picture of run folders.

    Raises:
        SettingsError: the folders have nothing that it shows.
    """
    from kdengine.errors import SettingsError
    from kdengine.report.pictures import drawings

    drawn = drawings()[name](folders)
    if drawn is None:
        raise SettingsError(f"--{name} {file}: '{' '.join(folders)}' is no {NEEDED[name]}")
    return drawn


def _print(tables: Sequence[Table], form: str) -> None:
    from kdengine.cli.tables import print_table
    from kdengine.report.grouped import joined

    if form == "json":
        every = [table.to_dict() for table in tables]
        click.echo(json.dumps(every[0] if len(every) == 1 else {"tables": every}))
    elif form == "csv":
        click.echo(joined(tables).to_csv(), nl=False)
    elif form == "markdown":
        click.echo("\n".join(table.to_markdown() for table in tables), nl=False)
    else:
        for number, table in enumerate(tables):
            click.echo(("\n" if number else "") + table.caption + "\n")
            print_table(table.columns, table.rows)


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
