"""``python -m kdzoo``: the table of networks in the README, in Markdown, measured on the networks themselves."""

from __future__ import annotations

import timm
import torch

from kdzoo.catalogue import NETWORKS
from kdzoo.network import Network

__all__ = ["table"]

CLASSES = (10, 100)


def table() -> str:
    """One row per network: the maps at the ends of its stages for 32 x 32 images, its embedding, and its parameters."""
    counts = " | ".join(f"parameters, {classes} classes" for classes in CLASSES)
    head = [f"| network | stages | embedding | {counts} |", "|---|---|--:|" + "--:|" * len(CLASSES)]
    return "\n".join(head + [_row(name) for name in NETWORKS])


def _row(name: str) -> str:
    with torch.device("meta"):
        network = timm.create_model(name)
        counts = " | ".join(f"{parameters(network, classes):,}" for classes in CLASSES)
    return f"| `{name}` | {', '.join(stages(name))} | {network.head_hidden_size} | {counts} |"


def parameters(network: Network, classes: int) -> int:
    """Number of trainable values with that many classes; replaces the network's classifier."""
    network.reset_classifier(classes)
    return sum(value.numel() for value in network.parameters())


def stages(name: str) -> list[str]:
    """Channels and size of the maps at the end of the stages, such as ``64@8x8``, without the stem."""
    with torch.device("meta"):
        extractor = timm.create_model(name, features_only=True)
        maps = extractor(torch.zeros(1, 3, 32, 32))
    named = zip(extractor.feature_info.module_name(), maps, strict=True)
    return [f"{each.shape[1]}@{each.shape[2]}x{each.shape[3]}" for module, each in named if module.startswith("layer")]


if __name__ == "__main__":
    print(table())
