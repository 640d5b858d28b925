"""``kdengine report``: tables, plots and a page about runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kdengine.cli.options import as_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
@click.option("--figure", metavar="FILE", help="Also write the curves as FILE.pdf, FILE.svg or FILE.png.")
@click.option(
    "--tradeoff", metavar="FILE", help="Also write score over latency, of several students, as FILE.pdf, FILE.svg or FILE.png."
)
@click.option("--mixed", is_flag=True, help="Put runs with different data or training settings into one table.")
@as_json
def command(
    folders: tuple[str, ...],
    form: str,
    html: str | None,
    png: str | None,
    figure: str | None,
    tradeoff: str | None,
    mixed: bool,
    as_json: bool,
) -> None:
    r"""Print a table over run folders, comparisons, or all runs below a folder.

    Runs on different data, or trained with different settings, get a table for each group. Runs that failed or are not
    finished are listed with the scores they reached.

    \b
    kdengine report runs/st runs/rkd --html report.html
    """
    from kdengine.report.curves import draw_curves
    from kdengine.report.grouped import tables_of
    from kdengine.report.page import write_page

    kind, drawn = _kind(figure), _tradeoff(tradeoff, folders)
    tables = tables_of(folders, mixed)
    if png:
        _write(png, lambda: draw_curves(folders).savefig(png, format="png"))
    if html:
        _write(html, lambda: write_page(html, folders, tables))
    if figure:
        _write(figure, lambda: draw_curves(folders).savefig(figure, format=kind))
    if tradeoff and drawn:
        _write(tradeoff, lambda: drawn.savefig(tradeoff, format=_kind(tradeoff)))
    _print(tables, "json" if as_json else form)


def _kind(figure: str | None) -> str:
    """The format of the figure, by the end of its name.

    Raises:
        SettingsError: it is none of those that can be written.
    """
    from kdengine.errors import SettingsError

    kind = Path(figure or "curves.pdf").suffix.lower().removeprefix(".")
    if kind not in ("pdf", "svg", "png"):
        raise SettingsError(f"'{figure}' is no figure that can be written. Name a file that ends in .pdf, .svg or .png.")
    return kind


def _tradeoff(file: str | None, folders: Sequence[str]) -> Figure | None:
    """The picture of score over latency, if it is wanted.

    Raises:
        SettingsError: the folders hold no several students of known latency, or it is no file that can be written.
    """
    from kdengine.errors import SettingsError
    from kdengine.report.tradeoff import draw_tradeoff

    _kind(file)
    drawn = draw_tradeoff(folders) if file else None
    if file and drawn is None:
        raise SettingsError(
            f"--tradeoff {file}: '{' '.join(folders)}' is no comparison of several students whose latency is known. Name the "
            "folder of one; 'kdengine benchmark FOLDER' measures what was not measured."
        )
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
