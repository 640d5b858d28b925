"""``kdengine train``: train one network, without a teacher."""

from __future__ import annotations

from typing import Any

import click

from kdengine.cli.options import settings_from, show_log, tell_circumstances, training_options

__all__ = ["command"]


@click.command("train")
@click.argument("config", required=False, type=click.Path(), metavar="[RUN.toml]")
@click.option("--model", "student", metavar="SPEC", help="The network to train.")
@click.option("--plugin", "methods", multiple=True, metavar="NAME", help="Observer, such as tensorboard; repeatable.")
@training_options
def command(config: str | None, recipe: str | None, out: str | None, trust: bool, as_json: bool, **said: Any) -> None:
    r"""Train one network by itself: a teacher, or the baseline of a student.

    \b
    kdengine train --model resnet8 --data digits
    """
    from kdengine.cli.progress import ProgressBar
    from kdengine.cli.run import fit_and_print
    from kdengine.engine import Engine
    from kdengine.errors import SettingsError
    from kdengine.plugins.registry import Registry
    from kdengine.report.pictures import Pictures

    show_log()
    registry = Registry()
    settings = settings_from(registry, config, recipe, trust=trust, **said)
    if settings.teacher or any(registry.methods(name) for name in settings.methods):
        raise SettingsError("'kdengine train' trains without a teacher; use 'kdengine run' to distil.")
    tell_circumstances(config, settings)
    fit_and_print(Engine.of(settings, out, registry, [ProgressBar(), Pictures()]), as_json)
