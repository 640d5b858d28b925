"""``kdengine sweep``: every combination of option values, side by side."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import click

from kdengine.cli.comparing import Comparing, comparing_options
from kdengine.cli.options import show_log
from kdengine.storage.jsontext import json_text

if TYPE_CHECKING:
    from kdengine.comparison import Comparison
    from kdengine.launchers.launcher import Launcher

__all__ = ["command"]


@click.command("sweep")
@click.option("--plugin", "plugins", multiple=True, metavar="NAME", help="Method to use in every cell; repeatable.")
@click.option(
    "--grid", "grids", multiple=True, metavar="NAME=V,V,...", help="Values of METHOD.OPTION or train.OPTION; repeatable."
)
@comparing_options("plugins", "grids")
def command(flags: Comparing, plugins: tuple[str, ...], grids: tuple[str, ...]) -> None:
    r"""Try every combination of option values, each as a lane of one comparison.

    \b
    kdengine sweep --plugin st --grid st.alpha=0.1,0.5,0.9 --grid st.temperature=1,4,10 --teacher resnet20 --student resnet8
    """
    from kdengine.cli.lane_plan import print_lanes
    from kdengine.errors import SettingsError
    from kdengine.plugins.registry import Registry
    from kdengine.report.grid import check_sweep
    from kdengine.runs.grid_search import cells, parse_axis

    show_log()
    registry = Registry()
    act, launcher = partial(print_lanes, called="cells") if flags.dry_run else _fit_and_print, flags.launcher(registry)
    if flags.resume:
        check_sweep(flags.resume)
        act(flags.resumed(registry, plugin=plugins, grid=grids), flags, launcher)
        return
    if not plugins:
        raise SettingsError("There is no method. Name one, for example --plugin st.")
    axes = [parse_axis(text) for text in grids]
    note = {"axes": [{"name": axis.name, "values": list(axis.values)} for axis in axes]}
    act(flags.started(registry, cells(plugins, axes), plugins, note), flags, launcher)


def _fit_and_print(comparison: Comparison, flags: Comparing, launcher: Launcher | None) -> None:
    """Train all cells, write tables and pictures into the folder, and print the table, or the rows as JSON."""
    from kdengine.cli.tables import print_table
    from kdengine.report.grid import Grid
    from kdengine.report.pictures import leave_pictures
    from kdengine.storage.writing import write_text
    from kdengine.training.runtime import is_first_process

    comparison.fit(progress=True, on=launcher)
    if not is_first_process():
        return
    leave_pictures(comparison.folder, flags.pictures)
    grid = Grid.of(comparison.folder)
    table = grid.table()
    write_text(comparison.folder / "sweep.csv", table.to_csv())
    write_text(comparison.folder / "sweep.md", table.to_markdown())
    if flags.as_json:
        facts = {"cells": list(grid.board.rows), "teacher": grid.board.teacher, "folder": str(comparison.folder)}
        click.echo(json_text(facts))
        return
    click.echo(table.caption + "\n")
    print_table(table.columns, table.rows, keep=table.columns)
    click.echo(f"Folder: {comparison.folder}")
