"""A launcher that carries the units of a comparison over a SLURM cluster. Not a method."""

from __future__ import annotations

from kdengine import Registrar, hookimpl
from kdplugin_slurm.launcher import SlurmLauncher

__all__ = ["SlurmLauncher"]


@hookimpl
def kdengine_register(registry: Registrar) -> None:
    """Register the launcher."""
    registry.launcher(SlurmLauncher.name, SlurmLauncher)
