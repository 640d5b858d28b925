"""All networks of the zoo, family by family, as its table and kdengine list them."""

from __future__ import annotations

from kdzoo import (
    bottleneck_resnet,
    cifar_mobilenetv2,
    cifar_resnet,
    cifar_vgg,
    plain_cnn,
    shufflenetv1,
    shufflenetv2,
    small_cnn,
    wide_resnet,
)

__all__ = ["NETWORKS"]

_FAMILIES = (
    cifar_resnet,
    wide_resnet,
    cifar_vgg,
    cifar_mobilenetv2,
    shufflenetv1,
    shufflenetv2,
    plain_cnn,
    bottleneck_resnet,
    small_cnn,
)
NETWORKS = tuple(name for family in _FAMILIES for name in family.NETWORKS)
"""The names under which timm and kdengine know them."""
