"""Runs a ``Distiller`` of an mdistiller tree on any pair of networks: ``--plugin mdistiller:PATH/FILE.py``."""

from __future__ import annotations

from kdengine import Registrar, hookimpl
from kdplugin_mdistiller.adapted import Adapted, load

__all__ = ["Adapted", "load"]


@hookimpl
def kdengine_register(registry: Registrar) -> None:
    """Offer the adapter."""
    registry.adapter("mdistiller", load, form="PATH/FILE.py")
