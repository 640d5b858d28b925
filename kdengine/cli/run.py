"""``kdengine run``: distil one teacher, or several, into one student."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from kdengine.cli.options import (
    override_option,
    refuse_with_resume,
    refuse_without_resume,
    resume_option,
    settings_from,
    show_log,
    teacher_epochs_option,
    teacher_option,
    teacher_store_option,
    teacher_weights_option,
    training_options,
    values_from,
    warn_of_changes,
)
from kdengine.storage.jsontext import json_text

if TYPE_CHECKING:
    from kdengine.engine import Engine
    from kdengine.plugins.registry import Registry

__all__ = ["command", "fit_and_print", "resumed", "show_plan"]


@click.command("run")
@click.argument("config", required=False, type=click.Path(), metavar="[RUN.toml]")
@click.option(
    "--plugin",
    "methods",
    multiple=True,
    metavar="NAME",
    help="Method: a plugin's name, a distribution, a file, or ADAPTER:FILE; repeatable.",
)
@teacher_option
@click.option("--student", metavar="SPEC", help="Network to train.")
@teacher_weights_option
@click.option("--student-weights", metavar="FILE|RUN", help="Weights that the student starts from.")
@teacher_epochs_option
@teacher_store_option
@click.option("--probe", metavar="SPEC", help="Afterwards, see how well the embedding tells the classes of this data apart.")
@resume_option
@click.option("--dry-run", is_flag=True, help="Check the run and show what it would do, without training.")
@override_option
@training_options
def command(
    config: str | None,
    resume: str | None,
    override: bool,
    dry_run: bool,
    probe: str | None,
    recipe: str | None,
    out: str | None,
    trust: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    r"""Distil a teacher, or several, into a student.

    \b
    kdengine run --plugin rkd --teacher timm:resnet32 --student resnet8
    kdengine run --plugin fitnet --plugin st -o st.temperature=4 --teacher timm:resnet32 --student resnet8
    kdengine run --plugin st --teacher timm:resnet32 --teacher resnet20 --student resnet8
    kdengine run --resume runs/resnet8-rkd-20261121-101500
    """
    from kdengine.engine import Engine
    from kdengine.errors import SettingsError
    from kdengine.plugins.registry import Registry
    from kdengine.report.pictures import Pictures
    from kdengine.runs.samples import Samples

    show_log()
    registry = Registry()
    observers = [Samples(), Pictures()]
    if resume:
        engine = resumed(resume, registry, observers, override, trust, config=config, recipe=recipe, out=out, **flags)
        _check_probe(probe, engine, registry)
        show_plan(engine, as_json) if dry_run else fit_and_print(engine, as_json, probe)
        return
    refuse_without_resume(override)
    settings = settings_from(registry, config, recipe, trust=trust, **flags)
    methods = [method for name in settings.methods for method in registry.methods(name)]
    if any(method.requires_teacher for method in methods) and not settings.teacher:
        raise SettingsError("There is no teacher. Name one, for example --teacher timm:resnet32.")
    if settings.teacher and not methods:
        raise SettingsError("There is no method. Name one, for example --plugin st; 'kdengine plugins' lists them.")
    warn_of_changes(config, settings)
    engine = Engine.of(settings, out, registry, observers)
    _check_probe(probe, engine, registry)
    if dry_run:
        show_plan(engine, as_json)
    else:
        fit_and_print(engine, as_json, probe)


def _check_probe(probe: str | None, engine: Engine, registry: Registry) -> None:
    """Refuse a probe that would fail, which otherwise shows only after the training.

    Raises:
        KDError: its data have no classes, or the student will have no embedding.
    """
    from kdengine.errors import SettingsError
    from kdengine.runs.probe_run import data_to_probe
    from kdengine.runs.source import data_named

    if probe is None:
        return
    data_to_probe(probe, registry)
    name = engine.settings.task
    if name is None:
        data = data_named(engine.settings, registry)
        name, engine.assignment = data.task, replace(engine.assignment, data=data)  # which need not be loaded again
    task = registry.task(name)
    if task.outputs == "pixels":
        raise SettingsError(
            f"--probe reads the embedding of an image, but the outputs of the task '{task.name}' are {task.outputs}, and the "
            "student has no embedding. Leave out --probe."
        )


def resumed(
    folder: str,
    registry: Registry,
    observers: Sequence[object],
    override: bool,
    trust: bool,
    *,
    config: str | None,
    recipe: str | None,
    out: str | None,
    **flags: Any,
) -> Engine:
    """The run to go on with, whose folder ``--resume`` names; what is said beside it changes its settings.

    Raises:
        KDError: it cannot be resumed, or not with these flags.
    """
    from kdengine.engine import Engine

    refuse_with_resume(recipe=recipe, out=out)
    changes = values_from(config, trust=trust, **flags)
    return Engine.resume(folder, registry, observers, changes=changes, override=override, trust=trust)


def show_plan(engine: Engine, as_json: bool) -> None:
    """Print what the run would do, as tables or as JSON."""
    from kdengine.cli.planning import print_plan

    plan = engine.plan().describe()
    if as_json:
        click.echo(json_text(plan))
        return
    print_plan(plan)
    click.echo(f"Nothing was trained. The run folder would be {plan['folder']}")


def fit_and_print(engine: Engine, as_json: bool, probe: str | None = None) -> None:
    """Train, then print the result as a table or as JSON, and how the student does on labelled data that is named."""
    from kdengine.cli.evaluate import print_probe
    from kdengine.cli.tables import print_result
    from kdengine.runs.probe_run import probe_folder
    from kdengine.training.runtime import is_first_process

    result = engine.fit(progress=True)
    if not is_first_process():
        return
    if not as_json:
        print_result(result.to_dict(), str(result.folder))
    probed = {} if probe is None else {"probe": probe_folder(str(result.folder), probe, trust=True)}
    if as_json:
        click.echo(json_text({**result.to_dict(), "folder": str(result.folder), **probed}))
    elif probed:
        print_probe(probed["probe"])
