"""Preprocessing per network: resizes and renormalises the images of the data as a network expects them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdengine.transfer import moved

__all__ = ["ImageSpec", "Preprocess", "Preprocessed"]


@dataclass(frozen=True)
class ImageSpec:
    """Size and normalisation of the images that a network receives.

    Attributes:
        size: shape of one image, (C, H, W).
        mean: mean subtracted from each channel, on the scale 0 to 1; None if unknown.
        std: standard deviation that each channel was divided by; None if unknown.
    """

    size: tuple[int, int, int]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __str__(self) -> str:
        shown = " x ".join(map(str, self.size))
        known = [(name, values) for name, values in (("mean", self.mean), ("std", self.std)) if values]
        return ", ".join([shown, *(f"{name} {' '.join(f'{value:g}' for value in values)}" for name, values in known)])

    def describe(self) -> dict[str, Any]:
        """Size, and mean and std if known, as plain data."""
        known = {"mean": self.mean, "std": self.std}
        return {"size": list(self.size), **{name: list(values) for name, values in known.items() if values}}


@dataclass(frozen=True)
class Preprocess:
    """Turns the images of the data into those that one network expects.

    Attributes:
        given: the images of the data.
        wanted: the images that the network expects; the same number of channels.
    """

    given: ImageSpec
    wanted: ImageSpec

    @classmethod
    def none(cls, size: Sequence[int]) -> Preprocess:
        """The preprocessing of a network that takes images [C, H, W] unchanged."""
        channels, rows, columns = size
        spec = ImageSpec((channels, rows, columns))
        return cls(spec, spec)

    @property
    def resizes(self) -> bool:
        """Whether the sizes differ."""
        return self.given.size != self.wanted.size

    @property
    def normalises(self) -> bool:
        """Whether the normalisations are known and differ."""
        ends = [(spec.mean, spec.std) for spec in (self.given, self.wanted)]
        return ends[0] != ends[1] and all(values is not None for end in ends for values in end)

    @property
    def changes(self) -> bool:
        """Whether it changes the images at all."""
        return self.resizes or self.normalises

    def __call__(self, images: Tensor) -> Tensor:
        """The images [B, C, H, W] as the network expects them, [B, C, H', W'], float32, in the same memory layout.

        Returns the same tensor if there is nothing to change.
        """
        if self.normalises:
            scale, shift = self._affine(images.device)
            images = images.float() * scale + shift
        if self.resizes:
            images = F.interpolate(images.float(), size=self.wanted.size[1:], mode="bicubic", antialias=True)
        return images

    def before(self, network: nn.Module) -> nn.Module:
        """The network with this preprocessing in front; the network itself if there is nothing to change."""
        return Preprocessed(self, network) if self.changes else network

    def _affine(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Scale s / S and shift (m - M) / S, each [1, C, 1, 1], that turn (v - m) / s into (v - M) / S."""
        ends = [torch.tensor([spec.mean, spec.std], dtype=torch.float64) for spec in (self.given, self.wanted)]
        (m, s), (wanted_m, wanted_s) = ends
        factors = moved(torch.stack([s / wanted_s, (m - wanted_m) / wanted_s]).float(), device)
        scale, shift = factors.view(2, 1, -1, 1, 1)
        return scale, shift


class Preprocessed(nn.Module):
    """A network with its preprocessing in front.

    Taps resolve as they do in the bare network.

    Args:
        preprocess: applied to the images first.
        network: receives the result.
    """

    preprocess: Preprocess

    def __init__(self, preprocess: Preprocess, network: nn.Module) -> None:
        super().__init__()
        self.preprocess = preprocess
        self.module = network  # taps look through this name, as they do for DistributedDataParallel
        self.training = network.training

    def forward(self, images: Tensor) -> Any:
        """Images [B, C, H, W] of the data -> the network's output."""
        return self.module(self.preprocess(images))
