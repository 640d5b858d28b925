"""Augmentation: random changes of training images; every draw depends on seed, epoch and the image's position alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdengine.config.settings import TrainSettings
from kdengine.config.train_settings import POLICIES
from kdengine.data.draws import hashed, uniform
from kdengine.seeds import seeded
from kdengine.transfer import moved

__all__ = ["Augmentation", "cropped", "flipped"]

PADDING = 8
"""Crops are taken from images padded by this part of their sides: 4 pixels of 32, 28 of 224."""
SMALL = 64
"""Shorter side, in pixels, below which 'auto-augment' uses the policy found on CIFAR-10, not the one found on ImageNet."""


@dataclass(frozen=True)
class Augmentation:
    """What happens to each training image; by default nothing.

    Attributes:
        crop: crop the padded image at a random position.
        resize: lower end of the share of the area that a random crop keeps before it is resized; None for no such crop.
        flip: mirror left to right with probability one half.
        policy: ``"rand-augment"``, ``"auto-augment"``, ``"trivial"`` or None.
        operations: operations a 'rand-augment' applies in turn.
        magnitude: their strength, from 0 to 30.
        jitter: strength of random changes of brightness, contrast and saturation; 0 for none.
        erase: probability of erasing a random rectangle.
        fill: value of each channel that fills what is moved in or erased, on the scale 0 to 255.
    """

    crop: bool = False
    resize: float | None = None
    flip: bool = False
    policy: str | None = None
    operations: int = 2
    magnitude: int = 9
    jitter: float = 0.0
    erase: float = 0.0
    fill: tuple[float, ...] = ()

    @classmethod
    def of(cls, settings: TrainSettings, usual: str = "none", mean: Sequence[float] = ()) -> Augmentation:
        """The augmentation that settings ask for.

        Args:
            settings: of the run.
            usual: the crop that suits the data, ``"none"``, ``"crop"`` or ``"crop-flip"``; taken if the settings name none.
            mean: of each channel, on the scale 0 to 1.
        """
        names = [usual if name == "auto" else name for name in settings.augment.split("+")]
        policy = next((name for name in names if name in ("rand-augment", "auto-augment", "trivial")), None)
        windows = [name for name in names if name != policy] or [usual]
        resized = "resized-crop" in windows
        return cls(
            crop=any(name in ("crop", "crop-flip") for name in windows),
            resize=settings.crop_scale if resized else None,
            flip="crop-flip" in windows or (resized and usual == "crop-flip"),
            policy=policy,
            operations=settings.augment_operations,
            magnitude=settings.augment_magnitude,
            jitter=settings.color_jitter,
            erase=settings.erase,
            fill=tuple(255 * value for value in mean),
        )

    @classmethod
    def of_second_view(cls, settings: TrainSettings, usual: str = "none", mean: Sequence[float] = ()) -> Augmentation:
        """The augmentation of the second view that some methods need; arguments as for :meth:`of`."""
        names = settings.second_view
        if names == "auto":
            windows = [name for name in settings.augment.split("+") if name not in POLICIES]
            names = "+".join([*windows, "rand-augment"])
        return cls.of(settings.model_copy(update={"augment": names}), usual, mean)

    @property
    def is_slow(self) -> bool:
        """Whether it treats images one by one, which worker processes can do ahead."""
        return self.resize is not None or self.policy is not None or bool(self.jitter or self.erase)

    def __call__(self, images: Tensor, index: Tensor, seed: int, epoch: int, masked: bool = False) -> Tensor:
        """Change images.

        Args:
            images: uint8 [B, C, H, W].
            index: position of each image in the data set, int64 [B].
            seed: of the run.
            epoch: from 0.
            masked: whether the last channel is a mask, which moves with the pixels and keeps its values; no policy can do so.

        Returns:
            uint8 [B, C, H, W].
        """
        if self.crop or self.flip:
            draws = uniform(seed, epoch, index, 3)
            images = cropped(images, draws[:, :2]) if self.crop else images
            images = flipped(images, draws[:, 2]) if self.flip else images
        if not self.is_slow:
            return images
        change = self._masked_one if masked else self._one
        return torch.stack([change(image, hashed(seed, epoch, int(at))) for image, at in zip(images, index, strict=True)])

    def _one(self, image: Tensor, seed: int) -> Tensor:
        """One image, uint8 [C, H, W], through the transforms of torchvision, which draw from torch's global state."""
        with seeded(seed):
            for transform in self._transforms(image.shape[1], image.shape[2]):
                image = transform(image)
        return image

    def _masked_one(self, image: Tensor, seed: int) -> Tensor:
        """The same of an image with its mask, uint8 [C + 1, H, W]: a crop takes both, what changes colours the image alone."""
        from torchvision.transforms import v2

        colours, mask = image[:-1], image[-1:]
        nearest = v2.InterpolationMode.NEAREST_EXACT  # what v2 does to masks itself would shift them by half a pixel
        with seeded(seed):
            for transform in self._transforms(image.shape[1], image.shape[2]):
                if isinstance(transform, v2.RandomResizedCrop):
                    window = transform.make_params([colours])
                    mask = v2.functional.resized_crop(mask, **window, size=list(transform.size), interpolation=nearest)
                    colours = v2.functional.resized_crop(
                        colours, **window, size=list(transform.size), interpolation=transform.interpolation
                    )
                else:
                    colours = transform(colours)
        return torch.cat([colours, mask])

    def _transforms(self, rows: int, columns: int) -> list[Any]:
        """The transforms for images of one size."""
        if (rows, columns) not in self._made:
            self._made[rows, columns] = self._make(rows, columns)
        return self._made[rows, columns]

    @cached_property
    def _made(self) -> dict[tuple[int, int], list[Any]]:
        return {}

    def _make(self, rows: int, columns: int) -> list[Any]:
        from torchvision.transforms import v2

        transforms: list[Any] = []
        fill = list(self.fill) or None
        bicubic = v2.InterpolationMode.BICUBIC
        if self.resize is not None:
            transforms.append(v2.RandomResizedCrop((rows, columns), scale=(self.resize, 1.0), interpolation=bicubic))
        if self.policy == "rand-augment":
            transforms.append(v2.RandAugment(self.operations, self.magnitude, fill=fill))
        elif self.policy == "auto-augment":
            found_on = v2.AutoAugmentPolicy.CIFAR10 if min(rows, columns) < SMALL else v2.AutoAugmentPolicy.IMAGENET
            transforms.append(v2.AutoAugment(found_on, fill=fill))
        elif self.policy == "trivial":
            transforms.append(v2.TrivialAugmentWide(fill=fill))
        if self.jitter:
            transforms.append(v2.ColorJitter(self.jitter, self.jitter, self.jitter))
        if self.erase:
            transforms.append(v2.RandomErasing(self.erase, value=fill or 0))
        return transforms


def cropped(images: Tensor, draws: Tensor) -> Tensor:
    """Pad images with zeros on all sides, by an eighth of each, and crop each to its old size.

    Args:
        images: [B, C, H, W].
        draws: where the window of each lies between the upper and the lower end, and between left and right, [B, 2] in [0, 1).
    """
    count, _, height, width = images.shape
    margins = [max(1, side // PADDING) for side in (height, width)]
    places = moved((draws * torch.tensor([2 * margin + 1 for margin in margins])).long(), images.device)
    rows = (places[:, :1] + torch.arange(height, device=images.device))[:, :, None]
    columns = (places[:, 1:] + torch.arange(width, device=images.device))[:, None, :]
    padded = F.pad(images, [margins[1]] * 2 + [margins[0]] * 2).permute(0, 2, 3, 1)
    picked = torch.arange(count, device=images.device)[:, None, None]
    return padded[picked, rows, columns].permute(0, 3, 1, 2)


def flipped(images: Tensor, draws: Tensor) -> Tensor:
    """Mirror those images [B, C, H, W] left to right whose draw, [B] in [0, 1), is below one half."""
    flip = moved(draws < 0.5, images.device)
    return torch.where(flip[:, None, None, None], images.flip(3), images)
