"""The launcher that ``--on`` names, and the ``-o`` options that are its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from kdengine.launchers.launcher import Launcher
    from kdengine.plugins.registry import Registry

__all__ = ["launcher_for", "on_option", "own_options"]

on_option = click.option("--on", metavar="LAUNCHER", help="Work in other processes: local, or ray, slurm ... of plugins.")


def own_options(assignments: Sequence[str], on: str | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The ``-o`` options of the launcher, and all others."""
    own = tuple(text for text in assignments if _table_of(text) == on)
    return own, tuple(text for text in assignments if text not in own)


def launcher_for(on: str | None, options: Sequence[str], registry: Registry) -> Launcher | None:
    """The launcher that ``--on`` names, if any.

    Args:
        on: its name.
        options: its ``-o`` options.
        registry: finds launchers.

    Raises:
        KDError: there is no such launcher, or one of its options is invalid.
    """
    if on is None:
        return None
    from kdengine.config.settings import from_assignments
    from kdengine.dispatch.carriage import launcher_named

    return launcher_named(on, registry, from_assignments(options).get("options", {}).get(on))


def _table_of(assignment: str) -> str:
    """``ray`` of ``ray.gpus_per_lane=0.25``; empty without a dot."""
    name = assignment.partition("=")[0]
    return name.partition(".")[0].strip() if "." in name else ""
