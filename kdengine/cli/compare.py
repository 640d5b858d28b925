"""``kdengine compare``: many methods on one student or several, with one teacher pass and one table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from kdengine.cli.comparing import Comparing, comparing_options
from kdengine.cli.options import show_log
from kdengine.storage.jsontext import json_text

if TYPE_CHECKING:
    from kdengine.comparison import Comparison
    from kdengine.launchers.launcher import Launcher
    from kdengine.runs.lane_specs import LaneSpec

__all__ = ["command"]


@click.command("compare")
@click.option("--methods", metavar="LIST", help="Methods (st,rkd), several in one lane (fitnet+st), and groups (all, modern).")
@click.option(
    "--tune-lr",
    metavar="[RATES|N]",
    is_flag=False,
    flag_value="5",
    help="Probe learning rates on the plain student first: 5 around train.lr, or 0.01,0.03,0.1; 'each' for every lane.",
)
@click.option("--no-latency", is_flag=True, help="Of several students, do not measure at the end how long each takes.")
@comparing_options("methods", "tune_lr", "no_latency", many_students=True)
def command(flags: Comparing, methods: str | None, tune_lr: str | None, no_latency: bool) -> None:
    r"""Compare methods on one pair of networks: same student, same batches, one teacher pass; or on several students at once.

    \b
    kdengine compare --methods st,fitnet,rkd --trials 3 --teacher timm:resnet32 --student resnet8
    kdengine compare --methods st,rkd --teacher timm:resnet32 --student resnet8 --student resnet14
    kdengine compare --methods modern,st,fitnet+st --teacher timm:resnet32 --student resnet8
    kdengine compare --methods all --trials 5 --teacher timm:resnet32 --student resnet8 --on local -o local.workers=4
    """
    from kdengine.cli.lane_plan import print_lanes
    from kdengine.errors import SettingsError
    from kdengine.plugins.registry import Registry
    from kdengine.runs.lane_specs import lane_specs
    from kdengine.runs.tuning import Tuning

    show_log()
    registry = Registry()
    act, launcher = print_lanes if flags.dry_run else _fit_and_print, flags.launcher(registry)
    if flags.resume:
        act(flags.resumed(registry, not no_latency, methods=methods, tune_lr=tune_lr), flags, launcher)
        return
    lanes, tuning = lane_specs(methods or "", registry), Tuning.of(tune_lr)
    if not lanes:
        raise SettingsError("There are no methods. Name some, for example --methods st,rkd, or --methods all.")
    act(flags.started(registry, lanes, _plugins(lanes), tune_lr=tuning, latency=not no_latency), flags, launcher)


def _plugins(lanes: Sequence[LaneSpec]) -> tuple[str, ...]:
    """The plugins that the lanes use, each once."""
    return tuple(dict.fromkeys(str(plugin) for lane in lanes for plugin in lane.plugins))


def _fit_and_print(comparison: Comparison, flags: Comparing, launcher: Launcher | None) -> None:
    """Train all lanes, then print the table and what it says, or the rows as JSON."""
    from kdengine.cli.tables import print_table
    from kdengine.report.answer import answer_of
    from kdengine.report.pictures import leave_pictures
    from kdengine.report.tuning import tuning_table
    from kdengine.training.runtime import is_first_process

    board = comparison.fit(progress=True, on=launcher)
    if not is_first_process():
        return
    leave_pictures(comparison.folder, flags.pictures)
    if flags.as_json:
        facts: dict[str, Any] = {"methods": list(board.rows), "teacher": board.teacher, "folder": str(comparison.folder)}
        facts |= {"tuned": comparison.tuned} if comparison.tuned else {}
        facts |= {"warnings": list(board.warnings)} if board.warnings else {}
        click.echo(json_text(facts))
        return
    tuned = comparison.tuned or {}
    for label, chosen in tuned.items() if board.students else [("", tuned)] if tuned else ():
        table = tuning_table(chosen, board.scoring)
        click.echo(f"{f'{label}. ' if label else ''}{table.caption}\n")
        print_table(table.columns, table.rows)
        click.echo()
    table = board.table()
    click.echo(table.caption + "\n")
    print_table(table.columns, table.rows)
    answer = answer_of(board)
    click.echo(f"{answer}\n" if answer else "", nl=False)
    click.echo(f"Folder: {comparison.folder}")
