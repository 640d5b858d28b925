"""Which images each network is given: what the settings say, else what its weights were made for, else the data's own."""

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
    said: InputSettings | None = None,
    owner: str = "input",
    trained_on: InputSettings | None = None,
) -> Preprocess:
    """What is done to the images of the data before a network receives them.

    Args:
        network: a model spec that names something, or a module, of whose weights nothing is known.
        images: what the data makes.
        said: what the settings say; it goes before everything else.
        owner: name of those settings, for errors.
        trained_on: what the network's weights were trained on, where a run folder says so.

    Raises:
        SettingsError: a normalisation is asked for where that of the data is unknown, or for other channels.
        ModelError: it cannot be told what the network's weights were made for.
    """
    said = said or InputSettings()
    _check(said, images, owner)
    own = {**_of_spec(network, images), **_of_weights(trained_on, images), **_given(said)}
    wanted = InputSettings.checked(own)
    size = images.size if wanted.size is None else (images.size[0], *wanted.size)
    return Preprocess(images, ImageSpec(size, wanted.mean or images.mean, wanted.std or images.std))


def _of_spec(network: str | nn.Module, images: ImageSpec) -> dict[str, Any]:
    """What a spec says, and its pretrained weights; these count only where it is known how the data is normalised.

    With loaders of the caller's own it is not, and they may well prepare the images for this very network.
    """
    if isinstance(network, nn.Module):
        return {}
    made_for = {} if images.mean is None else _given(input_of_weights(network))
    suited = {name: _for_channels(value, name, images.size[0]) for name, value in made_for.items()}
    return {**suited, **_given(size_in_spec(network))}


def _of_weights(trained_on: InputSettings | None, images: ImageSpec) -> dict[str, Any]:
    """What weights from a run of kdengine were trained on."""
    return {} if trained_on is None or images.mean is None else _given(trained_on)


def _for_channels(value: Any, name: str, channels: int) -> Any:
    """A normalisation for as many channels; weights that were adapted to others, such as grey, get its mean."""
    if name == "size" or len(value) == channels:
        return value
    return (sum(value) / len(value),) * channels


def _check(said: InputSettings, images: ImageSpec, owner: str) -> None:
    for name in ("mean", "std"):
        values, channels = getattr(said, name), images.size[0]
        if values is None:
            continue
        if images.mean is None:
            raise SettingsError(
                f"{owner}.{name} = {list(values)} cannot be used with loaders of your own: how they normalise is unknown, "
                f"so it cannot be changed. Only {owner}.size can; normalise in the loaders."
            )
        if len(values) != channels:
            raise SettingsError(
                f"{owner}.{name} = {list(values)} has {len(values)} numbers, but the images have {channels} channels. "
                f"Give {channels}."
            )


def _given(settings: InputSettings) -> dict[str, Any]:
    return settings.model_dump(exclude_none=True)
