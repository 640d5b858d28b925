"""Observers given by name: plugins that are selected for every lane of a comparison."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from kdengine.errors import SettingsError
from kdengine.plugins.registry import Registry
from kdengine.runs.assignment import Assignment

__all__ = ["select_observers", "without_names"]


def without_names(assignment: Assignment) -> tuple[Assignment, list[str]]:
    """An assignment whose observers are objects, and the names of those that are plugins.

    Args:
        assignment: its observers may be objects and names.
    """
    names = [observer for observer in assignment.observers if isinstance(observer, str)]
    objects = tuple(observer for observer in assignment.observers if not isinstance(observer, str))
    return replace(assignment, observers=objects), names


def select_observers(names: Iterable[str], registry: Registry) -> dict[str, list[str]]:
    """Select plugins, so that their hooks are called for every lane.

    Args:
        names: their names.
        registry: finds them.

    Returns:
        the entry of ``comparison.json`` by which a resumed comparison has them again; empty if there are none.

    Raises:
        PluginError: there is no such plugin, or it is broken.
        SettingsError: one of them is a method.
    """
    chosen = list(dict.fromkeys(names))
    for name in chosen:
        if registry.methods(name):
            raise SettingsError(f"'{name}' is a method, not an observer. Name it among the methods to compare.")
    return {"observers": chosen} if chosen else {}
