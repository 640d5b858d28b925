"""What a network receives: the images of the data, brought to the size and the normalisation that it was made for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ImageSpec", "Preprocess", "Preprocessed"]


@dataclass(frozen=True)
class ImageSpec:
    """What images are like when they reach a network.

    Attributes:
        size: shape of one image, (C, H, W).
        mean: what was taken off each channel, on the scale 0 to 1; None where nobody knows.
        std: what each channel was then divided by; None where nobody knows.
    """

    size: tuple[int, int, int]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __str__(self) -> str:
        shown = " x ".join(map(str, self.size))
        known = [(name, values) for name, values in (("mean", self.mean), ("std", self.std)) if values]
        return ", ".join([shown, *(f"{name} {' '.join(f'{value:g}' for value in values)}" for name, values in known)])

    def describe(self) -> dict[str, Any]:
        """Size, and mean and std where they are known, as plain data."""
        known = {"mean": self.mean, "std": self.std}
        return {"size": list(self.size), **{name: list(values) for name, values in known.items() if values}}


@dataclass(frozen=True)
class Preprocess:
    """Turns images as the data makes them into what one network was made for.

    Attributes:
        given: what the data makes.
        wanted: what the network was made for; as many channels.
    """

    given: ImageSpec
    wanted: ImageSpec

    @classmethod
    def none(cls, size: Sequence[int]) -> Preprocess:
        """The preprocessing of a network that takes images [C, H, W] as they are."""
        channels, rows, columns = size
        form = ImageSpec((channels, rows, columns))
        return cls(form, form)

    @property
    def resizes(self) -> bool:
        """Whether the sizes differ."""
        return self.given.size != self.wanted.size

    @property
    def normalises(self) -> bool:
        """Whether the normalisations are known and differ."""
        ends = [(form.mean, form.std) for form in (self.given, self.wanted)]
        return ends[0] != ends[1] and all(values is not None for end in ends for values in end)

    @property
    def changes(self) -> bool:
        """Whether anything is done at all."""
        return self.resizes or self.normalises

    def __call__(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] as the network wants them, [B, C, H', W'], float32, in the same memory layout.

        Where nothing is to be done, the very same tensor.
        """
        if self.normalises:
            scale, shift = self._affine(images.device)
            images = images.float() * scale + shift
        if self.resizes:
            images = F.interpolate(images.float(), size=self.wanted.size[1:], mode="bicubic", antialias=True)
        return images

    def before(self, network: nn.Module) -> nn.Module:
        """The network, taking images as the data makes them; itself where nothing is to be done."""
        return Preprocessed(self, network) if self.changes else network

    def _affine(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Scale s / S and shift (m - M) / S, each [1, C, 1, 1], that turn (v - m) / s into (v - M) / S."""
        ends = [torch.tensor([form.mean, form.std], dtype=torch.float64) for form in (self.given, self.wanted)]
        (m, s), (wanted_m, wanted_s) = ends
        factors = torch.stack([s / wanted_s, (m - wanted_m) / wanted_s]).float().to(device)
        scale, shift = factors.view(2, 1, -1, 1, 1)
        return scale, shift


class Preprocessed(nn.Module):
    """A network that takes images as the data makes them.

    The network keeps its identity, and taps are found in it as they are without this around it.

    Args:
        preprocess: what is done to the images.
        network: receives them then.
    """

    preprocess: Preprocess

    def __init__(self, preprocess: Preprocess, network: nn.Module) -> None:
        super().__init__()
        self.preprocess = preprocess
        self.module = network  # a name that taps look through, as they do through DistributedDataParallel's
        self.training = network.training

    def forward(self, images: Tensor) -> Any:
        """Images [B, C, H, W] as the data makes them -> whatever the network returns."""
        return self.module(self.preprocess(images))
