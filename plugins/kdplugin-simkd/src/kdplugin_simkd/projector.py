"""The projector, and the network that is deployed with it."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from kdengine import resize_maps

__all__ = ["Deployed", "Projector"]


class _BatchNorm(nn.BatchNorm2d):
    """Batch normalisation that uses its running statistics where a channel has a single value, and so no variance."""

    def forward(self, input: Tensor) -> Tensor:  # torch's name of the argument
        if self.training and input.numel() == input.shape[1]:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(input)


class Projector(nn.Sequential):
    """A bottleneck of convolutions, 1x1, 3x3 and 1x1, each with batch normalisation and a ReLU.

    Args:
        inputs: channels of the student's map.
        outputs: channels D of the teacher's map.
        factor: the two inner layers have D / factor channels, rounded down, at least one.
        rectified: whether the last ReLU is there, as the teacher's map is never negative.
    """

    def __init__(self, inputs: int, outputs: int, factor: int, rectified: bool) -> None:
        inner = max(1, outputs // factor)
        super().__init__(
            *_layer(inputs, inner, 1), *_layer(inner, inner, 3), *_layer(inner, outputs, 1)[: None if rectified else -1]
        )


def _layer(inputs: int, outputs: int, kernel: int) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return [convolution, _BatchNorm(outputs), nn.ReLU(inplace=True)]


class Deployed(nn.Module):
    """The student's layers up to its last map, the projector, and the teacher's classifier on the mean over positions.

    Args:
        backbone: images [B, C, H, W] -> the student's last map.
        size: height and width to which that is pooled first.
        projector: brings it to the width of the teacher's.
        head: the classifier, with weights of its own.
    """

    def __init__(self, backbone: nn.Module, size: Sequence[int], projector: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.size = size
        self.projector = projector
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] -> logits [B, K]."""
        logits: Tensor = self.head(self.projector(resize_maps(self.backbone(images), self.size)).mean((2, 3)))
        return logits
