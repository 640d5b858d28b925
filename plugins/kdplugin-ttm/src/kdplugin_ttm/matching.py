"""Transformed teacher matching: all images weigh the same."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from kdengine import Registrar, hookimpl
from kdplugin_ttm.base import Matching

__all__ = ["TTM"]


class TTM(Matching):
    """Transformed teacher matching: the student, without a temperature, learns the teacher's probabilities to a power.

    beta KL(p^gamma / sum p^gamma || q), the divergence of soft targets minus a Renyi entropy of the student

    Source: Zheng, Yang, "Knowledge Distillation Based on Transformed Teacher Matching", ICLR 2024, arXiv:2402.11148.
    """

    name = "ttm"
    presets: ClassVar = {
        "wrn_40_2-wrn_16_2": {"gamma": 0.1, "beta": 101.0},
        "wrn_40_2-wrn_40_1": {"gamma": 0.1, "beta": 76.0},
        "resnet56-resnet20": {"gamma": 0.3, "beta": 7.0},
        "resnet110-resnet20": {"gamma": 0.2, "beta": 8.0},
        "resnet110-resnet32": {"gamma": 0.1, "beta": 33.0},
        "resnet32x4-resnet8x4": {"gamma": 0.1, "beta": 100.0},
        "cifar_vgg13-vgg8": {"gamma": 0.1, "beta": 45.0},
        "cifar_vgg13-cifar_mobilenetv2_half": {"gamma": 0.2, "beta": 16.0},
        "cifar_resnet50-cifar_mobilenetv2_half": {"gamma": 0.2, "beta": 20.0},
        "cifar_resnet50-vgg8": {"gamma": 0.1, "beta": 70.0},
        "resnet32x4-shufflenetv1": {"gamma": 0.2, "beta": 12.0},
        "resnet32x4-shufflenetv2": {"gamma": 0.4, "beta": 40.0},
        "wrn_40_2-shufflenetv1": {"gamma": 0.3, "beta": 8.0},
    }

    class Options(Matching.Options):
        """Options of the method."""

        beta: float = Field(8.0, ge=0)
        """Weight of the divergence, the same for every image."""

    options: Options

    @property
    def beta(self) -> float:
        """Weight of the divergence."""
        return self.options.beta

    def image_weights(self, teacher_BK: Tensor) -> float:
        """1 for all."""
        return 1.0


@hookimpl
def kdengine_register(registry: Registrar) -> None:
    """Offer the method."""
    registry.distiller(TTM)
