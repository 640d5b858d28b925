"""``kdengine run``: distil."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from kdengine.cli.options import settings_from, show_log, training_options

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
@training_options
def command(config: str | None, resume: str | None, dry_run: bool, out: str | None, as_json: bool, **said: object) -> None:
    r"""Distil a teacher into a student.

    \b
    kdengine run --plugin rkd --teacher timm:resnet32 --student resnet8
    kdengine run --plugin fitnet --plugin st -o st.temperature=4 --teacher timm:resnet32 --student resnet8
    """
    from kdengine.cli.progress import ProgressBar
    from kdengine.engine import Engine
    from kdengine.errors import SettingsError
    from kdengine.registry import Registry
    from kdengine.report.pictures import Pictures

    show_log()
    registry = Registry()
    if resume:
        given = [name for name, value in said.items() if value not in (None, ())]
        if given or config or out:
            raise SettingsError("--resume takes all settings from the folder; leave the other options out.")
        fit_and_print(Engine.resume(resume, registry, [ProgressBar(), Pictures()]), as_json)
        return
    settings = settings_from(registry, config, **said)  # type: ignore[arg-type]
    methods = [method for name in settings.methods for method in registry.methods(name)]
    if methods and not settings.teacher:
        raise SettingsError("There is no teacher. Name it, for example --teacher timm:resnet32.")
    if settings.teacher and not methods:
        raise SettingsError("There is no method. Name one, for example --plugin st; 'kdengine plugins' lists them.")
    engine = Engine.of(settings, out, registry, [ProgressBar(), Pictures()])
    if dry_run:
        _show_plan(engine, as_json)
    else:
        fit_and_print(engine, as_json)


def _show_plan(engine: Engine, as_json: bool) -> None:
    from kdengine.cli.planning import print_plan

    plan = engine.plan().describe()
    if as_json:
        click.echo(json.dumps(plan))
        return
    print_plan(plan)
    click.echo(f"Nothing was trained. The run would lie in {plan['folder']}")


def fit_and_print(engine: Engine, as_json: bool) -> None:
    """Train, then print the result as a table or as JSON."""
    from kdengine.cli.tables import print_result
    from kdengine.runtime import is_first_process

    result = engine.fit()
    if not is_first_process():
        return
    if as_json:
        click.echo(json.dumps({**result.to_dict(), "folder": str(result.folder)}))
    else:
        print_result(result.to_dict(), str(result.folder))
