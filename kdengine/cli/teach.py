"""``kdengine teach``: fill a teacher store ahead, without training a student."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from kdengine.cli.options import (
    settings_from,
    show_log,
    teacher_epochs_option,
    teacher_option,
    teacher_store_option,
    teacher_weights_option,
    training_options,
)
from kdengine.storage.jsontext import json_text

if TYPE_CHECKING:
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
@click.option("--dry-run", is_flag=True, help="Check everything and show how large the store will be, without filling it.")
@partial(training_options, out=False)
def command(trials: int, views: int, dry_run: bool, recipe: str | None, trust: bool, as_json: bool, **flags: Any) -> None:
    r"""Fill a teacher store ahead: run, compare and sweep with the same --teacher-store then never run the teacher.

    Give the flags and settings of these runs. May be interrupted and repeated; adds seeds and teachers to a store.

    \b
    kdengine teach --teacher timm:resnet32 --epochs 60 --teacher-store store
    kdengine compare --methods st,rkd --teacher timm:resnet32 --student resnet8 --epochs 60 --teacher-store store
    """
    from kdengine.plugins.registry import Registry

    show_log()
    settings = settings_from(Registry(), None, recipe, trust=trust, **{**flags, "student": NOBODY})
    filling = _filling(settings.model_copy(update={"student": NOBODY, "methods": (), "options": {}}), trials, views)
    if dry_run:
        click.echo(json_text({"teacher_store": filling.forecast.describe()}) if as_json else str(filling.forecast))
        return
    _fill_and_print(filling, as_json)


def _filling(settings: Any, trials: int, views: int) -> Filling:
    """What is to be filled, checked."""
    from torch import nn

    from kdengine.runs.assignment import Assignment
    from kdengine.runs.teach import Filling

    assignment = Assignment.complete(settings, modules={"student": nn.Identity()})
    return Filling(assignment.session(), trials, views)


def _fill_and_print(filling: Filling, as_json: bool) -> None:
    """Fill the store, then print what it holds."""
    from kdengine.progress.filling import FillingProgress
    from kdengine.training.runtime import is_first_process
    from kdengine.training.signals import Stopped

    progress = FillingProgress(filling.epochs, filling.batches, quiet=not is_first_process())
    try:
        with progress:
            facts = filling.run(progress)
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
    click.echo(f"{facts['batches']} batches are there: {facts['epochs']} epochs of seed {seeds}. {filling.forecast}")
