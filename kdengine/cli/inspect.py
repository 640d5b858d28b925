"""``kdengine inspect``: modules, shapes, taps and stages of a network, or the plan of a method for two networks."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from kdengine.cli.options import as_json, set_option

if TYPE_CHECKING:
    from kdengine.taps import Anatomy

__all__ = ["command"]


@click.command("inspect")
@click.argument("model")
@click.argument("student", required=False)
@click.option("--plugin", "methods", multiple=True, metavar="NAME", help="With a STUDENT: method to plan for; repeatable.")
@click.option(
    "--size",
    type=click.IntRange(0, 2**16 - 1),
    default=0,
    metavar="S",
    help="Side of the square input.  [default: the network's own]",
)
@click.option("--classes", type=click.IntRange(1, 2**31 - 1), default=100, show_default=True, help="Number of classes.")
@click.option("--taps-only", is_flag=True, help="Omit the list of modules.")
@set_option
@as_json
def command(
    model: str,
    student: str | None,
    methods: tuple[str, ...],
    size: int,
    classes: int,
    taps_only: bool,
    assignments: tuple[str, ...],
    as_json: bool,
) -> None:
    r"""List what can be tapped in MODEL, or show how methods would use a teacher MODEL and a STUDENT.

    \b
    kdengine inspect resnet8
    kdengine inspect timm:vit_tiny_patch16_224 --taps-only
    kdengine inspect timm:resnet50 resnet8 --plugin fitnet
    """
    from kdengine.errors import SettingsError

    shape = (3, size, size) if size else _own_size(student or model)
    if student is not None:
        if taps_only:
            raise click.UsageError(
                "--taps-only is for the list of one network: leave it out, or leave out STUDENT and --plugin."
            )
        if not methods:
            raise SettingsError("There is no method. Name one, for example --plugin st; 'kdengine plugins' lists them.")
        _plan(model, student, methods, shape, classes, assignments, as_json)
        return
    if methods or assignments:
        raise SettingsError("A method needs a teacher and a student: kdengine inspect TEACHER STUDENT --plugin NAME.")
    _list(model, shape, classes, taps_only, as_json)


def _plan(
    teacher: str,
    student: str,
    methods: tuple[str, ...],
    shape: tuple[int, int, int],
    classes: int,
    assignments: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show what a run with two networks would do, on blank images of a size."""
    from kdengine.cli.options import settings_from
    from kdengine.cli.planning import print_plan
    from kdengine.data.dataset import blank
    from kdengine.engine import Engine
    from kdengine.plugins.registry import Registry

    registry = Registry()
    data = blank(shape, classes)
    settings = settings_from(
        registry, None, None, assignments, trust=True, methods=methods, teacher=teacher, student=student, data=data.name
    )
    plan = Engine.of(settings, registry=registry, data=data).plan().describe()
    plan = {key: value for key, value in plan.items() if key != "folder"}
    if as_json:
        click.echo(json.dumps(plan))
    else:
        print_plan(plan)


def _list(model: str, shape: tuple[int, int, int], classes: int, taps_only: bool, as_json: bool) -> None:
    """List everything in one network that can be tapped."""
    from kdengine.networks.models import ModelSource
    from kdengine.plugins.registry import Registry
    from kdengine.taps import Anatomy

    network = ModelSource(model, {"num_classes": classes}, shape, Registry()).create(0)
    facts = _facts(Anatomy.of(network, shape, model), shape)
    facts = {key: value for key, value in facts.items() if key != "modules" or not taps_only}
    if as_json:
        click.echo(json.dumps(facts))
    else:
        _print(facts)


def _own_size(model: str) -> tuple[int, int, int]:
    """The input size that timm records for a network, a zoo's networks included; ImageNet's for all others."""
    import timm

    from kdengine.config.specs import Spec
    from kdengine.errors import ModelError
    from kdengine.plugins.registry import Registry

    spec = Spec.parse(model, ModelError)
    if spec.scheme in ("", "timm"):
        Registry().load_models()
        config = timm.get_pretrained_cfg(spec.name) if timm.is_model(spec.name) else None
        if config is not None and config.input_size:
            channels, height, width = config.input_size
            return channels, height, width
    return (3, 224, 224)


def _facts(anatomy: Anatomy, shape: tuple[int, int, int]) -> dict[str, Any]:
    return {
        "network": anatomy.name,
        "input_size": list(shape),
        "parameters": anatomy.parameters,
        "classifier": anatomy.classifier,
        "probed_on": anatomy.probe.device,
        "taps": [
            {
                "name": name,
                "place": str(point),
                "shape": list(anatomy.tensor(point).shape),
                "cloned": point.overwritten,
                "layout": point.layout.kind,
            }
            for name, point in anatomy.canonical.items()
        ],
        "modules": [
            {
                "path": call.path,
                "call": call.number,
                "type": call.kind,
                "input": None if call.input is None else list(call.input.shape),
                "output": None if call.output is None else list(call.output.shape),
            }
            for call in anatomy.calls
            if call.path
        ],
    }


def _print(facts: dict[str, Any]) -> None:
    from kdengine.cli.tables import print_table

    size = " x ".join(map(str, facts["input_size"]))
    click.echo(f"{facts['network']}: {facts['parameters']:,} parameters, input {size}, shapes for a batch of 2\n")
    taps = [[tap["name"], tap["place"], tap["shape"], "cloned" if tap["cloned"] else ""] for tap in facts["taps"]]
    print_table(["tap", "where", "shape", ""], taps)
    if "modules" in facts:
        click.echo()
        modules = [[_tap(call), call["type"], call["input"], call["output"]] for call in facts["modules"]]
        print_table(["module", "type", "input", "output"], modules)


def _tap(call: dict[str, Any]) -> str:
    return f"{call['path']}#{call['call']}" if call["call"] else str(call["path"])
