"""Named groups of methods: what ``--methods modern`` stands for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kdengine.errors import PluginError, did_you_mean
from kdengine.methods.curriculum import Curriculum
from kdengine.methods.distiller import Distiller
from kdengine.methods.transform import StepTransform
from kdengine.plugins.registry import Registry
from kdengine.storage.names import PLAIN

__all__ = ["ALL", "CATEGORIES", "expanded", "groups", "has_loss", "ordered"]

ALL = "all"
"""The group of every installed method with a loss of its own that serves classes, which most data has."""
CATEGORIES = ("response", "multi-connection", "shared-representation", "relational")
"""The order in which methods are listed."""
WITHOUT_LOSS: tuple[type[Distiller], ...] = (Curriculum, StepTransform)
"""Kinds of methods that change how others train, and teach nothing by themselves: no group has them."""


def has_loss(method: type[Distiller]) -> bool:
    """Whether a method can have a lane to itself."""
    return not issubclass(method, WITHOUT_LOSS)


def is_grouped(method: type[Distiller]) -> bool:
    """Whether groups have the method: it can have a lane beside any other, on data with one class for each image."""
    return has_loss(method) and "classes" in method.serves


def ordered(methods: Iterable[type[Distiller]]) -> list[type[Distiller]]:
    """Sort methods by category, then by name."""
    return sorted(methods, key=lambda method: (*_place(method.category), method.name))


def groups(registry: Registry) -> dict[str, list[str]]:
    """The names of all groups with the methods in them, sorted by category and name; ``all`` comes first.

    Only installed methods belong to groups; those of files do not, and neither do those that do not serve classes. A method
    that two distributions offer is written ``DISTRIBUTION:METHOD``, with the first of them.

    Args:
        registry: has the methods; every plugin that is not blocked is loaded.
    """
    registry.load_all()
    owners: dict[str, list[str]] = {}
    methods: dict[str, type[Distiller]] = {}
    for plugin in registry.plugins:
        for name in plugin.selectable:
            owners.setdefault(name, []).append(plugin.distribution)
        for name, method in plugin.methods.items():
            methods.setdefault(name, method)
    found: dict[str, list[str]] = {ALL: []}
    for method in ordered(filter(is_grouped, methods.values())):
        shared = len(set(owners[method.name])) > 1
        text = f"{owners[method.name][0]}:{method.name}" if shared else method.name
        for group in dict.fromkeys((ALL, *method.groups)):
            found.setdefault(group, []).append(text)
    return {ALL: found.pop(ALL), **dict(sorted(found.items()))}


def expanded(names: Iterable[str], registry: Registry) -> list[str]:
    """Names of methods in which every group is replaced by its methods; a method's name takes precedence over a group's.

    Args:
        names: methods as ``--plugin`` takes them, several joined by ``+``, or groups.
        registry: finds methods.

    Raises:
        PluginError: a name is neither a method nor a group, or a group is joined to something else.
    """
    return [each for name in names for each in _members(name, registry)]


def _members(name: str, registry: Registry) -> Sequence[str]:
    if name == PLAIN:
        return [name]
    if "+" in name:
        _refuse_joined_groups(name, registry)
        return [name]
    try:
        registry.methods(name)
    except PluginError as error:
        known = groups(registry)
        if name not in known:
            near = did_you_mean(name, known).replace("Did you mean", "Did you mean the group")
            if near:
                raise PluginError(f"{error} {near}") from error
            raise
        if not known[name]:
            raise PluginError("No methods are installed; pip install 'kdengine[all]' installs them all.") from error
        return known[name]
    return [name]


def _refuse_joined_groups(name: str, registry: Registry) -> None:
    for part in name.split("+"):
        try:
            _ = [] if part == PLAIN else registry.methods(part)
        except PluginError as error:
            if part in groups(registry):
                raise PluginError(f"'{part}' in '{name}' is a group; '+' joins methods. Separate groups by commas.") from error


def _place(category: str) -> tuple[int, str]:
    return (CATEGORIES.index(category), "") if category in CATEGORIES else (len(CATEGORIES), category)
