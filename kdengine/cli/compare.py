"""``kdengine compare``: many methods on one pair of networks, with one teacher pass and one table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from kdengine.cli.comparing import Comparing, comparing_options
from kdengine.cli.options import show_log
from kdengine.storage.jsontext import json_text

if TYPE_CHECKING:
    from kdengine.comparison import Comparison
    from kdengine.plugins.registry import Registry
    from kdengine.runs.lane_specs import LaneSpec

__all__ = ["command"]


@click.command("compare")
@click.option("--methods", metavar="LIST", help="st,fitnet,rkd or all; '+' combines methods in one lane: fitnet+st.")
@click.option(
    "--tune-lr",
    metavar="[RATES|N]",
    is_flag=False,
    flag_value="5",
    help="Probe learning rates on the plain student first: 5 around train.lr, or 0.01,0.03,0.1; 'each' for every lane.",
)
@comparing_options("methods", "tune_lr")
def command(flags: Comparing, methods: str | None, tune_lr: str | None) -> None:
    r"""Compare methods on one pair of networks: same student, same batches, one teacher pass.

    \b
    kdengine compare --methods st,fitnet,rkd --trials 3 --teacher timm:resnet32 --student resnet8
    """
    from kdengine.errors import SettingsError
    from kdengine.plugins.registry import Registry
    from kdengine.runs.tuning import Tuning

    show_log()
    registry = Registry()
    if flags.resume:
        _fit_and_print(flags.resumed(registry, methods=methods, tune_lr=tune_lr), flags.as_json)
        return
    if not methods:
        raise SettingsError("There are no methods. Name some, for example --methods st,rkd, or --methods all.")
    lanes, tuning = _lanes(methods, registry), Tuning.of(tune_lr)
    _fit_and_print(flags.started(registry, lanes, _plugins(lanes), tune_lr=tuning), flags.as_json)


def _lanes(methods: str, registry: Registry) -> list[LaneSpec]:
    """The lanes that ``--methods`` names.

    Raises:
        PluginError: a method does not exist.
    """
    from kdengine.errors import PluginError
    from kdengine.runs.lane_specs import lane_specs

    names = [name.strip() for name in methods.split(",") if name.strip()]
    if names == ["all"]:
        names = registry.all_methods()
        if not names:
            raise PluginError("No methods are installed; pip install 'kdengine[all]' installs them all.")
    return lane_specs(names, registry)


def _plugins(lanes: Sequence[LaneSpec]) -> tuple[str, ...]:
    """The plugins that the lanes use, each once."""
    return tuple(dict.fromkeys(str(plugin) for lane in lanes for plugin in lane.plugins))


def _fit_and_print(comparison: Comparison, as_json: bool) -> None:
    """Train all lanes, then print the table, or the rows as JSON."""
    from kdengine.cli.tables import print_table
    from kdengine.report.pictures import leave_pictures
    from kdengine.report.tuning import tuning_table
    from kdengine.training.runtime import is_first_process

    board = comparison.fit(progress=True)
    if not is_first_process():
        return
    leave_pictures(comparison.folder)
    if as_json:
        facts: dict[str, Any] = {"methods": list(board.rows), "teacher": board.teacher, "folder": str(comparison.folder)}
        facts |= {"tuned": comparison.tuned} if comparison.tuned else {}
        facts |= {"warnings": list(board.warnings)} if board.warnings else {}
        click.echo(json_text(facts))
        return
    if comparison.tuned:
        table = tuning_table(comparison.tuned, board.scoring)
        click.echo(table.caption + "\n")
        print_table(table.columns, table.rows)
        click.echo()
    table = board.table()
    click.echo(table.caption + "\n")
    print_table(table.columns, table.rows)
    click.echo(f"Folder: {comparison.folder}")
