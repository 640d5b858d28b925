"""The kinds of plugins that can be written and checked. A kind is added here, with a folder of templates of its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdengine.plugins.discovery import Plugin

__all__ = ["KINDS", "PluginKind"]

NOT_OBSERVING = {"kdengine_register", "kdengine_commands"}
"""Hooks that tell nothing about runs."""


@dataclass(frozen=True)
class PluginKind:
    """One kind of plugin.

    Attributes:
        name: its name, and that of its folder of templates.
        summary: what a new one is, in a few words.
        description: that of its package in ``pyproject.toml``.
        requires: what its example depends on beside kdengine.
        contract: the class in ``kdengine.testing`` that checks it.
        attribute: the attribute of that class that names what is checked.
        offered: what a loaded plugin offers of this kind, by name.
    """

    name: str
    summary: str
    description: str
    requires: tuple[str, ...]
    contract: str
    attribute: str
    offered: Callable[[Plugin], Mapping[str, Any]]

    @property
    def contract_class(self) -> type:
        """The contract, as a class to inherit."""
        found: type = getattr(import_module("kdengine.testing"), self.contract)
        return found


def _observer(plugin: Plugin) -> Mapping[str, Any]:
    """The module of a plugin with hooks that hear of runs."""
    from kdengine.plugins.loader import hooks_in

    return {plugin.name: plugin.module} if set(hooks_in(plugin.module)) - NOT_OBSERVING else {}


_ALL = (
    PluginKind(
        "method",
        "a distiller that matches embeddings",
        "The teacher's embedding, predicted from the student's, for kdengine",
        ("torch>=2.8",),
        "DistillerContract",
        "method",
        lambda plugin: plugin.methods,
    ),
    PluginKind(
        "task",
        "one number for each image",
        "One number for each image, a task for kdengine",
        ("torch>=2.8", "torchmetrics>=1.6"),
        "TaskContract",
        "task",
        lambda plugin: plugin.tasks,
    ),
    PluginKind(
        "observer",
        "writes a line for every epoch",
        "A line for every epoch of every run of kdengine",
        (),
        "ObserverContract",
        "observer",
        _observer,
    ),
    PluginKind(
        "launcher",
        "processes on this machine that give way to others",
        "Processes that give way to others, a launcher for kdengine",
        ("pydantic>=2.10",),
        "LauncherContract",
        "launcher",
        lambda plugin: plugin.launchers,
    ),
)
KINDS: Mapping[str, PluginKind] = {kind.name: kind for kind in _ALL}
"""All kinds, by name."""
