"""``kdengine run``: distil."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kdengine.cli.options import (
    override_option,
    refuse_with_resume,
    refuse_without_resume,
    settings_from,
    show_log,
    tell_circumstances,
    training_options,
    values_from,
)
from kdengine.storage.jsontext import json_text

if TYPE_CHECKING:
    from kdengine.engine import Engine

__all__ = ["command", "fit_and_print"]


@click.command("run")
@click.argument("config", required=False, type=click.Path(), metavar="[RUN.toml]")
@click.option("--plugin", "methods", multiple=True, metavar="NAME", help="Method, distribution or file; repeatable.")
@click.option("--teacher", metavar="SPEC", help="timm:NAME, torchvision:NAME, python:module:factory or a zoo name.")
@click.option("--student", metavar="SPEC", help="The network to train.")
@click.option("--teacher-weights", metavar="FILE", help="The teacher's weights; without them it is trained first.")
@click.option("--resume", metavar="FOLDER", help="Go on with the interrupted run in this folder.")
@click.option("--dry-run", is_flag=True, help="Say what the run would do, and check it, without training.")
@override_option
@training_options
def command(
    config: str | None,
    resume: str | None,
    override: bool,
    dry_run: bool,
    recipe: str | None,
    out: str | None,
    trust: bool,
    as_json: bool,
    **said: Any,
) -> None:
    r"""Distil a teacher into a student.

    \b
    kdengine run --plugin rkd --teacher timm:resnet32 --student resnet8
    kdengine run --plugin fitnet --plugin st -o st.temperature=4 --teacher timm:resnet32 --student resnet8
    kdengine run --resume runs/resnet8-rkd-20261121-101500
    """
    from kdengine.cli.progress import ProgressBar
    from kdengine.engine import Engine
    from kdengine.errors import SettingsError
    from kdengine.plugins.registry import Registry
    from kdengine.report.pictures import Pictures

    show_log()
    registry = Registry()
    observers = [ProgressBar(), Pictures()]
    if resume:
        refuse_with_resume(recipe=recipe, out=out)
        changes = values_from(config, trust=trust, **said)
        engine = Engine.resume(resume, registry, observers, changes=changes, override=override, trust=trust)
        _show_plan(engine, as_json) if dry_run else fit_and_print(engine, as_json)
        return
    refuse_without_resume(override)
    settings = settings_from(registry, config, recipe, trust=trust, **said)
    methods = [method for name in settings.methods for method in registry.methods(name)]
    if methods and not settings.teacher:
        raise SettingsError("There is no teacher. Name it, for example --teacher timm:resnet32.")
    if settings.teacher and not methods:
        raise SettingsError("There is no method. Name one, for example --plugin st; 'kdengine plugins' lists them.")
    tell_circumstances(config, settings)
    engine = Engine.of(settings, out, registry, observers)
    if dry_run:
        _show_plan(engine, as_json)
    else:
        fit_and_print(engine, as_json)


def _show_plan(engine: Engine, as_json: bool) -> None:
    from kdengine.cli.planning import print_plan

    plan = engine.plan().describe()
    if as_json:
        click.echo(json_text(plan))
        return
    print_plan(plan)
    click.echo(f"Nothing was trained. The run would lie in {plan['folder']}")


def fit_and_print(engine: Engine, as_json: bool) -> None:
    """Train, then print the result as a table or as JSON."""
    from kdengine.cli.tables import print_result
    from kdengine.training.runtime import is_first_process

    result = engine.fit()
    if not is_first_process():
        return
    if as_json:
        click.echo(json_text({**result.to_dict(), "folder": str(result.folder)}))
    else:
        print_result(result.to_dict(), str(result.folder))
