"""Launchers: what carries units of work to other processes and machines."""

from kdengine.launchers.local import LocalLauncher

__all__ = ["BUILT_IN"]

BUILT_IN = {LocalLauncher.name: LocalLauncher}
"""Launchers that need no plugin, by name."""
