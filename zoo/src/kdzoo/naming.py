"""Registering the zoo's networks with timm, so that ``timm.create_model(name)`` finds them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

__all__ = ["cifar_configs", "register"]


def cifar_configs(names: Iterable[str], **layers: str) -> Mapping[str, Any]:
    """Timm's configuration of each network: no weights, inputs of [3, 32, 32], and the names of its first and last layers."""
    config = {"url": "", "num_classes": 10, "input_size": (3, 32, 32), "pool_size": None, **layers}
    configs: Mapping[str, Any] = generate_default_cfgs(dict.fromkeys(names, config))
    return configs


def register(module: str, network: Callable[..., nn.Module], variants: Mapping[str, Mapping[str, Any]], features: int) -> None:
    """Register every variant under its name; the functions become attributes of ``module``, as timm's are.

    Args:
        module: name of the module that defines the network.
        network: the class, or any callable that takes the arguments of a variant.
        variants: name -> arguments.
        features: how many maps ``features_only=True`` returns: the length of ``feature_info``.
    """
    config = {"out_indices": tuple(range(features))}
    for name, arguments in variants.items():
        setattr(sys.modules[module], name, register_model(_entry(module, network, name, arguments, config)))


def _entry(
    module: str, network: Callable[..., nn.Module], name: str, arguments: Mapping[str, Any], features: Mapping[str, Any]
) -> Callable[..., nn.Module]:
    def entry(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        model: nn.Module = build_model_with_cfg(
            network, name, pretrained, feature_cfg=dict(features), **{**arguments, **kwargs}
        )
        return model

    entry.__name__ = entry.__qualname__ = name  # timm files a network under the function's name and module
    entry.__module__ = module
    return entry
