"""What the zoo offers kdengine: its networks under their bare names, ``seg:NAME``, and its recipes."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import timm

from kdengine import Registrar, hookimpl
from kdzoo.catalogue import NETWORKS
from kdzoo.segmentation import segmentation_network


@hookimpl
def kdengine_register(registry: Registrar) -> None:
    """Offer the networks, heads for pixels behind them, and the recipes."""
    for name in NETWORKS:
        registry.model(name, partial(timm.create_model, name))
    registry.model("seg:", segmentation_network)
    registry.recipes(Path(__file__).parent / "recipes")
