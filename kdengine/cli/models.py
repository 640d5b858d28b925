"""``kdengine models``: networks that can be named."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from typing import Any

import click

from kdengine.cli.options import as_json

__all__ = ["command"]


@click.command("models")
@click.argument("pattern", default="")
@click.option("--sizes", is_flag=True, help="Build each one to count its parameters; slow for long lists.")
@as_json
def command(pattern: str, sizes: bool, as_json: bool) -> None:
    r"""List networks; PATTERN is a part of the name, or a glob.

    \b
    kdengine models                 the networks of installed zoos
    kdengine models 'resnet*8*'     and those of timm and torchvision that fit
    """
    from kdengine.cli.tables import print_table

    found = [_entry(spec, sizes) for spec in _specs(pattern)]
    if as_json:
        click.echo(json.dumps({"models": found}))
        return
    rows = [[entry["spec"], _grouped(entry["parameters"]), _shape(entry["input_size"])] for entry in found]
    print_table(["network", "parameters", "input"], rows)
    if not pattern:
        click.echo("\n'kdengine models PATTERN' searches timm and torchvision too. Parameters are counted for 100 classes.")


def _specs(pattern: str) -> list[str]:
    """Bare names of the zoos; with a pattern, timm's and torchvision's too."""
    import timm
    import torchvision

    from kdengine.plugins.registry import Registry

    registry = Registry()
    registry.load_models()
    zoo = list(registry.offered("models"))
    if not pattern:
        return zoo
    glob = pattern.lower() if any(sign in pattern for sign in "*?[") else f"*{pattern.lower()}*"
    everywhere = [
        *zoo,
        *(f"timm:{name}" for name in timm.list_models() if name not in zoo),
        *(f"torchvision:{name}" for name in torchvision.models.list_models(module=torchvision.models)),
    ]
    return [spec for spec in everywhere if fnmatchcase(spec.rpartition(":")[2].lower(), glob) or fnmatchcase(spec, glob)]


def _entry(spec: str, sizes: bool) -> dict[str, Any]:
    """Name, parameters for 100 classes, and input size; networks of a zoo are small enough to always build."""
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
