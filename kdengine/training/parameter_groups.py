"""Groups of parameters with learning rates and weight decays of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from kdengine.config.settings import TrainSettings
from kdengine.errors import ModelError, SettingsError
from kdengine.training.freezing import is_within
from kdengine.training.lane_module import LaneModule

__all__ = ["parameter_groups"]

STUDENT = "student."
"""Prefix of the student's parameters in the module of a lane; what lies beside it belongs to methods."""


def parameter_groups(module: LaneModule, settings: TrainSettings) -> list[Any]:
    """The trainable parameters, as one list, or in groups if the settings treat some of them differently.

    Args:
        module: student and distillers.
        settings: with the rates and the weight decay.

    Raises:
        ModelError: neither the network nor a method has a parameter to train.
        SettingsError: the network does not say what its layers are, or has no classifier, and the settings need that.
    """
    parameters = {name: value for name, value in module.named_parameters() if value.requires_grad}
    if not parameters:
        raise ModelError(
            f"{type(module.student).__name__} has no parameter that requires a gradient, so there is nothing to train. Choose "
            "another network, or leave its parameters trainable when it is made."
        )
    own = _of_methods(module)
    ordinary = (
        settings.layer_decay is None and settings.head_lr == settings.backbone_lr == 1 and settings.decay_norms_and_biases
    )
    if ordinary and not own:
        return list(parameters.values())
    scales, undecayed = _scales(module, settings), _undecayed(module.student, settings)
    groups: dict[tuple[float, float | None], dict[str, Any]] = {}
    for name, parameter in parameters.items():
        path = name.removeprefix(STUDENT)
        bare = not settings.decay_norms_and_biases and (parameter.ndim <= 1 or (path != name and path in undecayed))
        wanted = own.get(parameter, {})
        scale = wanted.get("lr_scale", scales.get(name, 1.0))
        decay = wanted.get("weight_decay", 0.0 if bare else None)
        group = groups.setdefault((scale, decay), {"params": [], "lr_scale": scale})
        group["params"].append(parameter)
        if decay is not None:
            group["weight_decay"] = decay
    return list(groups.values())


def _of_methods(module: LaneModule) -> dict[nn.Parameter, Mapping[str, float]]:
    """What the methods want for their own parameters.

    Raises:
        SettingsError: a group has other keys, or parameters that are not the method's.
    """
    wanted: dict[nn.Parameter, Mapping[str, float]] = {}
    for key, method in module.methods.items():
        owned = set(method.parameters())
        for group in method.parameter_groups():
            if "params" not in group or set(group) - {"params", "lr_scale", "weight_decay"}:
                raise SettingsError(
                    f"{key}.parameter_groups() returned a group of {', '.join(group) or 'nothing'}; it must have 'params', and "
                    "'lr_scale' or 'weight_decay'. This is a bug in the plugin."
                )
            values = {name: float(value) for name, value in group.items() if name != "params"}
            foreign = [value for value in group["params"] if value not in owned]
            if foreign:
                raise SettingsError(
                    f"{key}.parameter_groups() returned a parameter of shape {list(foreign[0].shape)} that is not the method's "
                    "own. Create it in build, as a parameter or a module of the method. This is a bug in the plugin."
                )
            wanted |= dict.fromkeys(group["params"], values)
    return wanted


def _scales(module: LaneModule, settings: TrainSettings) -> dict[str, float]:
    """Factor on the learning rate of each of the student's parameters, by name in the lane's module."""
    layers = _layers(module.student) if settings.layer_decay is not None else {}
    deepest = max(layers.values(), default=0)
    if module.classifier is None and settings.head_lr != settings.backbone_lr:
        raise SettingsError(
            "train.head_lr and train.backbone_lr need a network with a classifier, and none was found in "
            f"{type(module.student).__name__}. Leave them out."
        )
    scales = {}
    for name, _ in module.student.named_parameters():
        factor = settings.head_lr if is_within(name, module.classifier) else settings.backbone_lr
        decayed = (settings.layer_decay or 1.0) ** (deepest - layers.get(name, deepest))
        scales[STUDENT + name] = factor * decayed
    return scales


def _layers(network: nn.Module) -> Mapping[str, int]:
    """The layer of each parameter, counted from the input, as timm's networks tell."""
    from timm.models import group_parameters

    matcher: Any = getattr(network, "group_matcher", None)
    if matcher is None:
        raise SettingsError(
            f"train.layer_decay needs a network that says what its layers are, as timm's do by 'group_matcher', but "
            f"{type(network).__name__} does not. Use train.head_lr and train.backbone_lr instead."
        )
    layers: Mapping[str, int] = group_parameters(network, matcher(coarse=False), reverse=True)
    return layers


def _undecayed(network: nn.Module, settings: TrainSettings) -> set[str]:
    """Parameters that the network itself wants without weight decay, such as positions in timm's transformers."""
    listed: Any = getattr(network, "no_weight_decay", None)
    return set() if settings.decay_norms_and_biases or listed is None else set(listed())
