"""Printing the plan of a comparison or sweep: its lanes, and the units that a launcher would carry."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from kdengine.cli.planning import print_units
from kdengine.cli.tables import print_table
from kdengine.errors import counted
from kdengine.storage.jsontext import json_text

if TYPE_CHECKING:
    from kdengine.cli.comparing import Comparing
    from kdengine.comparison import Comparison
    from kdengine.launchers.launcher import Launcher

__all__ = ["print_lanes"]


def print_lanes(comparison: Comparison, flags: Comparing, launcher: Launcher | None, called: str = "methods") -> None:
    """Print what every lane would be, and the units that a launcher would carry, as tables or as JSON.

    Args:
        comparison: the comparison; nothing is trained or written.
        flags: those of the command.
        launcher: the launcher that ``--on`` names, if any.
        called: what the lanes are called in JSON, as in that of the trained comparison.
    """
    rows = comparison.plan()
    units = None if launcher is None else comparison.units(launcher)
    if flags.as_json:
        store = {} if comparison.forecast is None else {"teacher_store": comparison.forecast.describe()}
        facts = {called: rows, "trials": comparison.trials, "folder": str(comparison.folder), **store}
        click.echo(json_text({**facts, **({} if units is None else {"units": units})}))
        return
    columns = {"student": "student"} if len(comparison.students) > 1 else {}
    columns |= {"method": "method", "epochs": "epochs", "connector_parameters": "connectors", "problem": "note"}
    cells = [[f"{value:,}" if isinstance(value := row.get(key, ""), int) else value for key in columns] for row in rows]
    print_table(list(columns.values()), cells)
    failing = sum("problem" in row for row in rows)
    pair = "its pair" if len(comparison.students) > 1 else "this pair"
    note = f", {failing} of which cannot run on {pair}" if failing else ""
    click.echo(f"{counted(len(rows), 'lane')}{note}; trials: {comparison.trials}. Nothing was trained.")
    if comparison.forecast is not None:
        click.echo(str(comparison.forecast))
    if units is not None and launcher is not None:
        print_units(units, launcher.name)
    click.echo(f"The folder would be {comparison.folder}")
