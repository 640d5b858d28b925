"""``kdengine train``: train one network, without a teacher."""

from __future__ import annotations

from typing import Any

import click

from kdengine.cli.options import (
    override_option,
    refuse_without_resume,
    resume_option,
    settings_from,
    show_log,
    training_options,
    warn_of_changes,
)

__all__ = ["command"]


@click.command("train")
@click.argument("config", required=False, type=click.Path(), metavar="[RUN.toml]")
@click.option("--model", "student", metavar="SPEC", help="Network to train.")
@click.option("--weights", "student_weights", metavar="FILE|RUN", help="Weights to start from; a head of another size is new.")
@click.option("--plugin", "methods", multiple=True, metavar="NAME", help="Observer, such as tensorboard; repeatable.")
@resume_option
@click.option("--dry-run", is_flag=True, help="Check the run and show what it would do, without training.")
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
    **flags: Any,
) -> None:
    r"""Train one network without a teacher: as a future teacher, as a baseline, or from pretrained weights.

    \b
    kdengine train --model resnet8 --data digits
    kdengine train --model timm:resnet50@pretrained=true --data imagefolder:~/flowers
    kdengine train --resume runs/resnet8-20261121-101500
    """
    from kdengine.cli.run import fit_and_print, resumed, show_plan
    from kdengine.engine import Engine
    from kdengine.errors import SettingsError
    from kdengine.plugins.registry import Registry
    from kdengine.report.pictures import Pictures
    from kdengine.runs.samples import Samples

    show_log()
    registry, observers = Registry(), [Samples(), Pictures()]
    if resume:
        engine = resumed(resume, registry, observers, override, trust, config=config, recipe=recipe, out=out, **flags)
    else:
        refuse_without_resume(override)
        settings = settings_from(registry, config, recipe, trust=trust, **flags)
        warn_of_changes(config, settings)
        engine = Engine.of(settings, out, registry, observers)
    if engine.settings.teacher or any(registry.methods(name) for name in engine.settings.methods):
        raise SettingsError("'kdengine train' trains without a teacher; use 'kdengine run' to distil.")
    (show_plan if dry_run else fit_and_print)(engine, as_json)
