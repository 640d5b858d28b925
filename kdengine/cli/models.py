"""``kdengine models``: the networks that can be used by name."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from typing import Any

import click

from kdengine.cli.options import as_json, glob_of

__all__ = ["command"]


@click.command("models")
@click.argument("pattern", default="")
@click.option("--sizes", is_flag=True, help="Build each network to count its parameters; slow for long lists.")
@as_json
def command(pattern: str, sizes: bool, as_json: bool) -> None:
    r"""List networks whose name contains PATTERN or matches it as a glob.

    \b
    kdengine models                 the networks of installed zoos
    kdengine models 'resnet*8*'     matches from zoos, timm and torchvision
    """
    from kdengine.cli.tables import print_table

    networks = [_facts(spec, sizes) for spec in _specs(pattern)]
    if as_json:
        click.echo(json.dumps({"models": networks}))
        return
    if pattern and not networks:
        click.echo(f"No network matches '{pattern}': neither in a zoo nor in timm or torchvision.", err=True)
        return
    rows = [[facts["spec"], _grouped(facts["parameters"]), _shape(facts["input_size"])] for facts in networks]
    print_table(["network", "parameters", "input"], rows)
    if not pattern:
        click.echo("\n'kdengine models PATTERN' also searches timm and torchvision. Parameters are counted with 100 classes.")


def _specs(pattern: str) -> list[str]:
    """The networks of the zoos by name alone; with a pattern, timm's and torchvision's too."""
    import timm

    from kdengine.networks.models import names_of_torchvision
    from kdengine.plugins.registry import Registry

    registry = Registry()
    registry.load_models()
    zoo = [name for name in registry.offered("models") if not name.endswith(":")]
    if not pattern:
        return zoo
    glob = glob_of(pattern)
    everywhere = [
        *zoo,
        *(f"timm:{name}" for name in timm.list_models() if name not in zoo),
        *(f"torchvision:{name}" for name in names_of_torchvision()),
    ]
    return [spec for spec in everywhere if fnmatchcase(spec.rpartition(":")[2].lower(), glob) or fnmatchcase(spec, glob)]


def _facts(spec: str, sizes: bool) -> dict[str, Any]:
    """Name, parameters with 100 classes, and input size; networks of a zoo are always built, because they are small."""
    import timm
    import torch

    from kdengine.networks.models import ModelSource, count_parameters
    from kdengine.plugins.registry import Registry

    name = spec.rpartition(":")[2]
    config = timm.get_pretrained_cfg(name) if timm.is_model(name) and not spec.startswith("torchvision:") else None
    size = tuple(config.input_size) if config and config.input_size else (3, 224, 224)
    parameters = None
    if sizes or ":" not in spec:
        with torch.device("meta"):
            parameters = count_parameters(ModelSource(spec, {"num_classes": 100}, size, Registry()).create(0))
    return {"spec": spec, "parameters": parameters, "input_size": list(size)}


def _grouped(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def _shape(size: list[int]) -> str:
    return " x ".join(map(str, size))
