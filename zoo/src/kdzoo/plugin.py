"""What the zoo offers kdengine: its networks under their bare names, and its recipes."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import timm

from kdengine import Registrar, hookimpl
from kdzoo.catalogue import NETWORKS


@hookimpl
def kdengine_register(registry: Registrar) -> None:
    """Offer the networks and the recipes."""
    for name in NETWORKS:
        registry.model(name, partial(timm.create_model, name))
    registry.recipes(Path(__file__).parent / "recipes")
