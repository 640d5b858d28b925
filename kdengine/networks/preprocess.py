"""Chooses each network's preprocessing: from the settings, else from its pretrained weights, else from the data."""

from __future__ import annotations

from typing import Any

from torch import nn

from kdengine.config.settings import InputSettings
from kdengine.errors import SettingsError
from kdengine.networks.inputs import ImageSpec, Preprocess
from kdengine.networks.pretrained import input_of_weights, size_in_spec

__all__ = ["preprocess_for"]


def preprocess_for(
    network: str | nn.Module,
    images: ImageSpec,
    settings: InputSettings | None = None,
    owner: str = "input",
    trained_on: InputSettings | None = None,
) -> Preprocess:
    """The preprocessing between the images of the data and a network.

    Args:
        network: a model spec, or a module, whose weights say nothing about their images.
        images: the images of the data.
        settings: explicit settings; they take precedence.
        owner: name of these settings, for errors.
        trained_on: the images on which the network's weights were trained, if a run folder records them.

    Raises:
        SettingsError: the settings give a normalisation although the data's is unknown, or for another number of channels.
        ModelError: the images that the network's pretrained weights expect cannot be determined.
    """
    settings = settings or InputSettings()
    _check(settings, images, owner)
    wanted = InputSettings.checked({**_of_spec(network, images), **_of_weights(trained_on, images), **_given(settings)})
    size = images.size if wanted.size is None else (images.size[0], *wanted.size)
    return Preprocess(images, ImageSpec(size, wanted.mean or images.mean, wanted.std or images.std))


def _of_spec(network: str | nn.Module, images: ImageSpec) -> dict[str, Any]:
    """The size in a spec, and what its pretrained weights expect; the latter only if the data's normalisation is known.

    The normalisation of the caller's own loaders is unknown, and they may already prepare the images for this network.
    """
    if isinstance(network, nn.Module):
        return {}
    expected = {} if images.mean is None else _given(input_of_weights(network))
    adapted = {name: _for_channels(value, name, images.size[0]) for name, value in expected.items()}
    return {**adapted, **_given(size_in_spec(network))}


def _of_weights(trained_on: InputSettings | None, images: ImageSpec) -> dict[str, Any]:
    """The images on which weights from a run folder were trained."""
    return {} if trained_on is None or images.mean is None else _given(trained_on)


def _for_channels(value: Any, name: str, channels: int) -> Any:
    """A normalisation for this number of channels; weights adapted to another number, such as grey, get its mean."""
    if name == "size" or len(value) == channels:
        return value
    return (sum(value) / len(value),) * channels


def _check(settings: InputSettings, images: ImageSpec, owner: str) -> None:
    for name in ("mean", "std"):
        values, channels = getattr(settings, name), images.size[0]
        if values is None:
            continue
        if images.mean is None:
            raise SettingsError(
                f"{owner}.{name} = {list(values)} cannot be applied to images from your own loaders, whose normalisation is "
                f"unknown. Normalise in the loaders; only {owner}.size can be set here."
            )
        if len(values) != channels:
            raise SettingsError(
                f"{owner}.{name} = {list(values)} has {len(values)} numbers, but the images have {channels} channels. "
                f"Give {channels} numbers."
            )


def _given(settings: InputSettings) -> dict[str, Any]:
    return settings.model_dump(exclude_none=True)
