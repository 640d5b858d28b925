"""The images that weights expect, according to their library or run folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kdengine.config.settings import InputSettings
from kdengine.config.specs import Spec
from kdengine.errors import ModelError, cause

__all__ = ["input_of_weights", "size_in_spec"]


def input_of_weights(text: str) -> InputSettings:
    """The size and normalisation that the pretrained weights of a model spec expect; empty if it loads none.

    Raises:
        ModelError: the spec loads weights whose images cannot be determined.
    """
    spec = Spec.parse(text, ModelError)
    find = _FINDERS.get(spec.scheme, _of_backbone if spec.scheme not in _WITHOUT else None)
    try:
        return InputSettings() if find is None else find(spec)
    except Exception as error:  # three libraries and a download may raise anything
        raise ModelError(
            f"'{text}': cannot determine the images that its pretrained weights expect: {cause(error).rstrip('.')}. Check "
            "the name and the connection to the hub, or load the weights from a file."
        ) from error


def size_in_spec(text: str) -> InputSettings:
    """The image size if the spec itself sets it, as ``timm:NAME@img_size=64`` does."""
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

    resolved = timm.models.resolve_pretrained_cfg(name, config, spec.options.get("pretrained_cfg_overlay"))
    return _input(resolved.input_size[1:], resolved.mean, resolved.std)


def _of_torchvision(spec: Spec) -> InputSettings:
    import torchvision

    weights, of_backbone = spec.options.get("weights"), spec.options.get("weights_backbone")
    if not (weights or of_backbone):
        return InputSettings()
    known = torchvision.models.get_model_weights(spec.name)
    preset = (known.verify(weights) if weights else known.DEFAULT).transforms()  # a backbone's images are normalised alike
    if hasattr(preset, "crop_size"):
        return _input(preset.crop_size * 2, preset.mean, preset.std)
    return InputSettings(mean=tuple(preset.mean), std=tuple(preset.std))  # of pixels: in images of any size


def _input(size: Sequence[int], mean: Sequence[float], std: Sequence[float]) -> InputSettings:
    return InputSettings(size=(size[0], size[1]), mean=tuple(mean), std=tuple(std))


def _of_backbone(spec: Spec) -> InputSettings:
    """The normalisation, for a plugin's scheme that puts a head of its own behind a network of timm; any size."""
    import timm

    if not spec.options.get("pretrained") or not timm.is_model(spec.name):
        return InputSettings()
    return _of_timm(spec).model_copy(update={"size": None})


_FINDERS = {"timm": _of_timm, "hf-hub": _of_hub, "torchvision": _of_torchvision}
_WITHOUT = ("", "python", "module")
"""Schemes whose networks have no weights of a library's."""
