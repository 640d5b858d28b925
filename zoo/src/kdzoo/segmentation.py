"""A small head that labels pixels, behind the backbone of any network of timm or of the zoo: ``seg:resnet18``.

The head adds up the maps of all sizes, as the semantic branch of Kirillov et al., "Panoptic Feature Pyramid Networks", CVPR
2019, arXiv:1901.02446, does, with one convolution for each map instead of a pyramid.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import timm
import torch.nn.functional as F
from timm.models import FeatureInfo, FeatureListNet
from torch import Tensor, nn

import kdzoo.catalogue  # noqa: F401  (registers the zoo's networks with timm)

__all__ = ["Intermediates", "PixelHead", "SegmentationNetwork", "segmentation_network"]

FINEST = 4
"""How many times smaller than the image the finest map is that the head reads, where there are several of this or less."""
MOST_MAPS = 4


class Intermediates(nn.Module):
    """The maps that a network of timm computes on its way to the embedding, without what would come after them.

    Args:
        model: the network, which keeps the names of its layers.
        indices: which of its maps.
    """

    def __init__(self, model: Any, indices: Sequence[int]) -> None:
        super().__init__()
        self.indices = list(indices)
        model.prune_intermediate_layers(self.indices, prune_norm=True, prune_head=True)
        self.model = model

    def forward(self, x: Tensor) -> list[Tensor]:
        """[B, in_chans, H, W] -> maps [B, C, H', W']."""
        options = {"indices": self.indices, "norm": False, "output_fmt": "NCHW", "intermediates_only": True}
        maps: list[Tensor] = self.model.forward_intermediates(x, **options)
        return maps

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Switch gradient checkpointing, where the network has it."""
        self.model.set_grad_checkpointing(enable)


class PixelHead(nn.Module):
    """Maps of several sizes -> logits of each place of the largest.

    Args:
        channels: of each map.
        num_classes: outputs K.
        width: channels in which the maps are added.
    """

    def __init__(self, channels: Sequence[int], num_classes: int, width: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(each, width, 1) for each in channels)
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.act = nn.ReLU(inplace=True)
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps [B, C, H', W'] -> [B, K, H', W'] at the largest size."""
        projected = [lateral(each) for lateral, each in zip(self.laterals, maps, strict=True)]
        rows, columns = (max(each.shape[axis] for each in projected) for axis in (2, 3))
        total = sum(_resized(each, (rows, columns)) for each in projected)
        logits: Tensor = self.classifier(self.act(self.norm(self.conv(total))))
        return logits


class SegmentationNetwork(nn.Module):
    """A backbone and a head for pixels.

    Args:
        backbone: images -> maps of several sizes.
        channels: of each map.
        num_classes: outputs K.
        width: channels in which the head adds the maps.

    Shapes: [B, in_chans, H, W] -> [B, K, H, W].
    """

    def __init__(self, backbone: nn.Module, channels: Sequence[int], num_classes: int, width: int = 96) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = PixelHead(channels, num_classes, width)

    def get_classifier(self) -> nn.Module:
        """The layer that makes the logits."""
        return self.head.classifier

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Switch gradient checkpointing of the backbone."""
        switch: Any = self.backbone
        switch.set_grad_checkpointing(enable)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_chans, H, W] -> logits of every pixel, [B, K, H, W]."""
        return _resized(self.head(self.backbone(x)), x.shape[2:])


def segmentation_network(
    name: str,
    num_classes: int = 2,
    in_chans: int = 3,
    img_size: Sequence[int] | int | None = None,
    width: int = 96,
    **options: Any,
) -> SegmentationNetwork:
    """``seg:NAME``: a network of timm or of the zoo, with a head for pixels instead of its own.

    Args:
        name: of the network, as timm knows it.
        num_classes: outputs K.
        in_chans: channels of the images.
        img_size: rows and columns of the images, or both in one number, for networks that fix them.
        width: channels in which the head adds the maps.
        options: of the backbone, such as ``pretrained=True``.

    Raises:
        ValueError: there is no such network, it has no maps, or the width is not a positive number.
    """
    if not timm.is_model(name):
        near = get_close_matches(timm.models.split_model_name_tag(name)[0], timm.list_models(), 3)
        raise ValueError(f"timm has no network '{name}'" + (f"; did you mean {' or '.join(near)}?" if near else ""))
    if isinstance(width, bool) or not isinstance(width, int) or width < 1:
        raise ValueError(f"width is the number of the head's channels, at least 1, got {width!r}")
    config = timm.models.get_pretrained_cfg(name)
    if img_size is not None and config is not None and config.fixed_input_size:
        options = {"img_size": tuple(img_size) if isinstance(img_size, Sequence) else img_size, **options}
    model = timm.create_model(name, num_classes=0, in_chans=in_chans, **options)
    info = _info(model, name)
    places = _places([entry["reduction"] for entry in info])
    channels = [info[place]["num_chs"] for place in places]
    if hasattr(model, "forward_intermediates"):
        return SegmentationNetwork(Intermediates(model, places), channels, num_classes, width)
    return SegmentationNetwork(FeatureListNet(model, out_indices=tuple(places)), channels, num_classes, width)


def _info(model: nn.Module, name: str) -> list[dict[str, Any]]:
    """What timm lists of the network's maps."""
    listed: Any = getattr(model, "feature_info", None)
    entries = listed.info if isinstance(listed, FeatureInfo) else list(listed or ())
    if not entries:
        raise ValueError(f"'{name}' does not list its maps (feature_info), which the head would read")
    return entries


def _places(reductions: Sequence[int]) -> list[int]:
    """Which maps the head reads: the last of each size, up to ``FINEST``; of a network of one size, some at even distances.

    >>> _places([2, 4, 8, 16, 32]), _places([1, 1, 2, 4]), _places([16] * 12)
    ([1, 2, 3, 4], [2, 3], [2, 5, 8, 11])
    """
    last = {reduction: place for place, reduction in enumerate(reductions)}
    if len(last) == 1:
        count = min(MOST_MAPS, len(reductions))
        return [len(reductions) * number // count - 1 for number in range(1, count + 1)]
    coarse = [place for reduction, place in last.items() if reduction >= FINEST]
    return coarse[-MOST_MAPS:] if len(coarse) > 1 else list(last.values())[-2:]


def _resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Maps [B, C, H', W'] at another size, [B, C, H, W]; the same tensor if they have it."""
    if tuple(maps.shape[2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)
