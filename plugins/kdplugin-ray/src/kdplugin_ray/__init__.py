"""A launcher that carries the units of a comparison over a Ray cluster. Not a method."""

from __future__ import annotations

from kdengine import Registrar, hookimpl
from kdplugin_ray.launcher import RayLauncher

__all__ = ["RayLauncher"]


@hookimpl
def kdengine_register(registry: Registrar) -> None:
    """Register the launcher."""
    registry.launcher(RayLauncher.name, RayLauncher)
