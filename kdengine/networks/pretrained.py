"""What images weights were made for, as the library or the run folder that has them says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kdengine.config.settings import InputSettings
from kdengine.config.specs import Spec
from kdengine.errors import ModelError

__all__ = ["input_of_weights", "size_in_spec"]


def input_of_weights(text: str) -> InputSettings:
    """Size and normalisation that the pretrained weights of a model spec were made for; nothing where it brings none.

    Raises:
        ModelError: it brings some, and it cannot be told.
    """
    spec = Spec.parse(text, ModelError)
    find = _FINDERS.get(spec.scheme)
    try:
        return InputSettings() if find is None else find(spec)
    except Exception as error:  # three libraries, and the network to the hub, may fail in any way
        raise ModelError(
            f"'{text}': what images its weights were made for cannot be told: {type(error).__name__}: {error}."
        ) from error


def size_in_spec(text: str) -> InputSettings:
    """The size of the images where the spec itself names it, as ``timm:NAME@img_size=64`` does."""
    spec = Spec.parse(text, ModelError)
    size = spec.options.get("img_size") if spec.scheme in ("timm", "hf-hub") else None
    return InputSettings() if size is None else InputSettings.checked({"size": size}, owner=text)


def _of_timm(spec: Spec) -> InputSettings:
    import timm

    if not spec.options.get("pretrained"):
        return InputSettings()
    name, tag = timm.models.split_model_name_tag(spec.name)
    return _of_config(spec, name, spec.options.get("pretrained_cfg") or tag)


def _of_hub(spec: Spec) -> InputSettings:
    import timm

    if not spec.options.get("pretrained", True):
        return InputSettings()
    config, name, _ = timm.models.load_model_config_from_hf(spec.name)
    return _of_config(spec, name, config)


def _of_config(spec: Spec, name: str, config: Any) -> InputSettings:
    import timm

    found = timm.models.resolve_pretrained_cfg(name, config, spec.options.get("pretrained_cfg_overlay"))
    return _input(found.input_size[1:], found.mean, found.std)


def _of_torchvision(spec: Spec) -> InputSettings:
    import torchvision

    named = spec.options.get("weights")
    if not named:
        return InputSettings()
    preset = torchvision.models.get_model_weights(spec.name).verify(named).transforms()
    return _input(preset.crop_size * 2, preset.mean, preset.std)


def _input(size: Sequence[int], mean: Sequence[float], std: Sequence[float]) -> InputSettings:
    return InputSettings(size=(size[0], size[1]), mean=tuple(mean), std=tuple(std))


_FINDERS = {"timm": _of_timm, "hf-hub": _of_hub, "torchvision": _of_torchvision}
