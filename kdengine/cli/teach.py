"""``kdengine teach``: fill a teacher store ahead, without training a student."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from kdengine.cli.launching import launcher_for, on_option, own_options
from kdengine.cli.options import (
    settings_from,
    show_log,
    teacher_epochs_option,
    teacher_option,
    teacher_store_option,
    teacher_weights_option,
    training_options,
)
from kdengine.cli.planning import print_seeds
from kdengine.errors import counted
from kdengine.storage.jsontext import json_text

if TYPE_CHECKING:
    from kdengine.config.settings import Settings
    from kdengine.dispatch.teaching import Teaching
    from kdengine.plugins.registry import Registry
    from kdengine.progress.filling import FillingProgress
    from kdengine.runs.assignment import Assignment
    from kdengine.runs.teach import Filling

__all__ = ["command"]

NOBODY = "module:nobody"
"""Stands in the settings for the student that there is not."""


@click.command("teach")
@teacher_option
@teacher_weights_option
@teacher_epochs_option
@teacher_store_option
@click.option("--trials", type=click.IntRange(min=1), default=1, help="Seeds to fill, from --seed on.", show_default=True)
@click.option("--views", type=click.IntRange(1, 2), default=1, help="Views of each image; mlld needs 2.", show_default=True)
@on_option
@click.option("--dry-run", is_flag=True, help="Check everything and show how large the store will be, without filling it.")
@partial(training_options, out=False)
def command(
    trials: int, views: int, on: str | None, dry_run: bool, recipe: str | None, trust: bool, as_json: bool, **flags: Any
) -> None:
    r"""Fill a teacher store ahead: run, compare and sweep with the same --teacher-store then never run the teacher.

    Give the flags and settings of these runs. May be interrupted and repeated; adds seeds and teachers to a store. With --on,
    each seed is filled by one worker: several seeds go side by side, a single one is no faster.

    \b
    kdengine teach --teacher timm:resnet32 --epochs 60 --teacher-store store
    kdengine teach --teacher timm:resnet32 --epochs 60 --teacher-store store --trials 4 --on local
    kdengine compare --methods st,rkd --teacher timm:resnet32 --student resnet8 --epochs 60 --teacher-store store
    """
    from kdengine.dispatch.teaching import Teaching
    from kdengine.plugins.registry import Registry

    show_log()
    registry = Registry()
    of_launcher, flags["assignments"] = own_options(flags["assignments"], on)
    launcher = launcher_for(on, of_launcher, registry)
    settings = settings_from(registry, None, recipe, trust=trust, **{**flags, "student": NOBODY})
    assignment = _assignment(settings.model_copy(update={"student": NOBODY, "methods": (), "options": {}}), registry)
    filling = _filling(assignment, trials, views)
    with nullcontext() if launcher is None else closing(launcher):
        teaching = None if launcher is None else Teaching(filling, assignment, launcher)
        if dry_run:
            _print_plan(filling, teaching, as_json)
        else:
            _fill_and_print(filling, (teaching or filling).run, as_json)


def _assignment(settings: Settings, registry: Registry) -> Assignment:
    """What is asked for, with a student that does nothing."""
    from torch import nn

    from kdengine.runs.assignment import Assignment

    return Assignment.complete(settings, registry=registry, modules={"student": nn.Identity()})


def _filling(assignment: Assignment, trials: int, views: int) -> Filling:
    """What is to be filled, checked."""
    from kdengine.runs.teach import Filling

    return Filling(assignment.session(), trials, views)


def _print_plan(filling: Filling, teaching: Teaching | None, as_json: bool) -> None:
    """Print how large the store will be, and the units that a launcher would carry, as text or as JSON."""
    units = None if teaching is None else teaching.units()
    if as_json:
        more = {} if units is None else {"units": units}
        click.echo(json_text({"teacher_store": filling.forecast.describe(), **more}))
        return
    click.echo(str(filling.forecast))
    if units is not None and teaching is not None:
        print_seeds(units, teaching.launcher.name)


def _fill_and_print(filling: Filling, fill: Callable[[FillingProgress], dict[str, Any]], as_json: bool) -> None:
    """Fill the store, then print what it holds."""
    from kdengine.progress.filling import FillingProgress
    from kdengine.training.runtime import is_first_process
    from kdengine.training.signals import Stopped

    progress = FillingProgress(filling.epochs, filling.batches, quiet=not is_first_process())
    try:
        with progress:
            facts = fill(progress)
    except Stopped as stopped:
        there = f"{progress.done} of {filling.batches} batches are there"
        click.echo(f"Interrupted; {there}. To go on: run the same command again", err=True)
        raise click.Abort from stopped
    if not is_first_process():
        return
    if as_json:
        click.echo(json_text(facts))
        return
    seeds = ", ".join(map(str, filling.store.seeds))
    click.echo(f"{facts['batches']} batches are there: {counted(facts['epochs'], 'epoch')} of seed {seeds}. {filling.forecast}")
