"""``python -m kdzoo``: the table of networks in the README, in Markdown, measured on the networks themselves."""

from __future__ import annotations

import timm
import torch

from kdzoo.cifar_resnet import NETWORKS

__all__ = ["table"]

CLASSES = (10, 100)


def table() -> str:
    """One row a network: depth, the maps at the end of its three stages for 32 x 32 images, and its parameters."""
    counts = " | ".join(f"parameters, {classes} classes" for classes in CLASSES)
    head = [f"| network | depth | stages | {counts} |", "|---|--:|---|" + "--:|" * len(CLASSES)]
    return "\n".join(head + [_row(name) for name in NETWORKS])


def _row(name: str) -> str:
    counts = " | ".join(f"{parameters(name, classes):,}" for classes in CLASSES)
    return f"| `{name}` | {NETWORKS[name]['depth']} | {', '.join(stages(name))} | {counts} |"


def parameters(name: str, classes: int) -> int:
    """Number of trainable values of a network."""
    with torch.device("meta"):
        return sum(value.numel() for value in timm.create_model(name, num_classes=classes).parameters())


def stages(name: str) -> list[str]:
    """Channels and size of the maps at the end of the stages, such as ``64@8x8``."""
    with torch.device("meta"):
        _, *maps = timm.create_model(name, features_only=True)(torch.zeros(1, 3, 32, 32))
    return [f"{tensor.shape[1]}@{tensor.shape[2]}x{tensor.shape[3]}" for tensor in maps]


if __name__ == "__main__":
    print(table())
