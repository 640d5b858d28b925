"""A plugin as discovery finds it: an entry point, its status, and what it offers once it is loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdengine.plugins.adapters import MethodAdapter

if TYPE_CHECKING:
    from kdengine.launchers.launcher import Launcher
    from kdengine.methods.distiller import Distiller
    from kdengine.tasks.task import Task

__all__ = ["Composition", "Plugin"]


@dataclass(frozen=True)
class Composition:
    """Several methods used together under one name.

    Attributes:
        methods: names of methods or compositions, in order.
        summary: what it does, in one sentence.
        source: the publication.
    """

    methods: tuple[str, ...]
    summary: str = ""
    source: str = ""


@dataclass
class Plugin:
    """One entry point of one distribution, with its status and what it offers.

    Attributes:
        name: name of the entry point.
        distribution: the distribution that ships it.
        version: version of the distribution.
        target: the module that the entry point names.
        status: ``found``, ``loaded``, ``broken``, ``incompatible``, ``blocked`` or ``shadowed``.
        reason: why it cannot be used.
        methods: name -> distiller.
        compositions: name -> methods used together.
        adapters: name -> what makes methods of ``name:TEXT``.
        models: name -> factory.
        datasets: name -> factory.
        tasks: name -> task.
        launchers: name -> launcher.
        recipes: folders with TOML files.
        module: the imported module.
        selected: whether a run selected it, so that its hooks are called.
    """

    name: str
    distribution: str
    version: str
    target: str
    status: str = "found"
    reason: str = ""
    methods: dict[str, type[Distiller]] = field(default_factory=dict)
    compositions: dict[str, Composition] = field(default_factory=dict)
    adapters: dict[str, MethodAdapter] = field(default_factory=dict)
    models: dict[str, Callable[..., Any]] = field(default_factory=dict)
    datasets: dict[str, Callable[..., Any]] = field(default_factory=dict)
    tasks: dict[str, type[Task]] = field(default_factory=dict)
    launchers: dict[str, type[Launcher]] = field(default_factory=dict)
    recipes: list[Path] = field(default_factory=list)
    module: Any = None
    selected: bool = False

    @property
    def title(self) -> str:
        """Distribution and version."""
        return f"{self.distribution} {self.version}".strip()

    @property
    def selectable(self) -> dict[str, Any]:
        """The compositions and methods, which a run may select by name."""
        return {**self.compositions, **self.methods}

    def withdraw(self) -> None:
        """Remove everything it registered before it failed."""
        named = (self.methods, self.compositions, self.adapters, self.models, self.datasets, self.tasks, self.launchers)
        for offers in (*named, self.recipes):
            offers.clear()
