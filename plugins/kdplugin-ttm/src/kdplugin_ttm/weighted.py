"""Weighted transformed teacher matching: the less certain the teacher is of an image, the more it weighs."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from kdengine import Registrar, hookimpl
from kdplugin_ttm.base import Matching, power_sum

__all__ = ["WTTM"]


class WTTM(Matching):
    """Weighted transformed teacher matching: images of which the teacher is less certain weigh more.

    beta U KL(p^gamma / sum p^gamma || q), U = sum p^gamma

    Source: Zheng, Yang, "Knowledge Distillation Based on Transformed Teacher Matching", ICLR 2024, arXiv:2402.11148.
    """

    name = "wttm"
    presets: ClassVar = {
        "wrn_40_2-wrn_16_2": {"gamma": 0.1, "beta": 4.0},
        "wrn_40_2-wrn_40_1": {"gamma": 0.1, "beta": 3.0},
        "resnet56-resnet20": {"gamma": 0.3, "beta": 1.5},
        "resnet110-resnet20": {"gamma": 0.2, "beta": 2.0},
        "resnet110-resnet32": {"gamma": 0.1, "beta": 1.5},
        "resnet32x4-resnet8x4": {"gamma": 0.1, "beta": 3.0},
        "cifar_vgg13-vgg8": {"gamma": 0.1, "beta": 2.25},
        "cifar_vgg13-cifar_mobilenetv2_half": {"gamma": 0.2, "beta": 3.0},
        "cifar_resnet50-cifar_mobilenetv2_half": {"gamma": 0.2, "beta": 5.0},
        "cifar_resnet50-vgg8": {"gamma": 0.1, "beta": 2.0},
        "resnet32x4-shufflenetv1": {"gamma": 0.2, "beta": 1.4},
        "resnet32x4-shufflenetv2": {"gamma": 0.4, "beta": 16.0},
        "wrn_40_2-shufflenetv1": {"gamma": 0.3, "beta": 3.0},
        "imagenet-resnet18": {"gamma": 0.8, "beta": 1.6},
        "imagenet-mobilenetv1": {"gamma": 0.7, "beta": 3.5},
    }

    class Options(Matching.Options):
        """Options of the method."""

        beta: float = Field(2.0, ge=0)
        """Weight of the divergence, beside that of each image."""

    options: Options

    @property
    def beta(self) -> float:
        """Weight of the divergence."""
        return self.options.beta

    def image_weights(self, teacher_BK: Tensor) -> Tensor:
        """The power sum of the teacher's probabilities, [B]."""
        return power_sum(teacher_BK, self.options.gamma)


@hookimpl
def kdengine_register(registry: Registrar) -> None:
    """Offer the method."""
    registry.distiller(WTTM)
