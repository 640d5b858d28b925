"""Finding plugins: what the entry points say, before anything is imported, and what a plugin then offers."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from importlib_metadata import distributions

from kdengine.config.settings import Settings, Strict
from kdengine.errors import PluginError, cause

if TYPE_CHECKING:
    from kdengine.methods.distiller import Distiller
    from kdengine.tasks.task import Task

__all__ = ["GROUP", "Composition", "Plugin", "Registrar", "canonical", "discover", "distillers_in", "import_file"]

GROUP = "kdengine"


@dataclass(frozen=True)
class Composition:
    """Several methods used together, under a name.

    Attributes:
        methods: what to use, in order: methods or compositions.
        summary: what it does, in a sentence.
        source: where it was published.
    """

    methods: tuple[str, ...]
    summary: str = ""
    source: str = ""


@dataclass
class Plugin:
    """One entry point of one distribution, and what became of it.

    Attributes:
        name: name of the entry point.
        distribution: who ships it.
        version: of the distribution.
        target: the module that the entry point names.
        status: ``found``, ``loaded``, ``broken``, ``blocked`` or ``shadowed``.
        reason: why it is broken, blocked or shadowed.
        methods: the distillers it offers.
        compositions: name -> methods used together.
        models: name -> factory.
        datasets: name -> factory.
        tasks: name -> task.
        recipes: folders with TOML files.
        module: what was imported.
        selected: whether a run asked for it, so that its hooks are called.
    """

    name: str
    distribution: str
    version: str
    target: str
    status: str = "found"
    reason: str = ""
    methods: dict[str, type[Distiller]] = field(default_factory=dict)
    compositions: dict[str, Composition] = field(default_factory=dict)
    models: dict[str, Callable[..., Any]] = field(default_factory=dict)
    datasets: dict[str, Callable[..., Any]] = field(default_factory=dict)
    tasks: dict[str, type[Task]] = field(default_factory=dict)
    recipes: list[Path] = field(default_factory=list)
    module: Any = None
    selected: bool = False

    @property
    def title(self) -> str:
        """Distribution and version."""
        return f"{self.distribution} {self.version}".strip()

    @property
    def selectable(self) -> dict[str, Any]:
        """What a run may select by name: compositions and methods."""
        return {**self.compositions, **self.methods}

    def withdraw(self) -> None:
        """Take back what was offered before a failure."""
        for offers in (self.methods, self.compositions, self.models, self.datasets, self.tasks, self.recipes):
            offers.clear()


class Registrar:
    """What a plugin's ``kdengine_register(registry)`` receives: a place to offer things, under its own name."""

    def __init__(self, plugin: Plugin) -> None:
        self._plugin = plugin

    def distiller(self, method: type[Distiller]) -> None:
        """Offer a method."""
        from kdengine.methods.distiller import Distiller

        if not (isinstance(method, type) and issubclass(method, Distiller)):
            raise PluginError(f"registry.distiller() takes a subclass of kdengine.Distiller, got {method!r}.")
        fault = _unfit(method)
        if fault:
            raise PluginError(f"{method.__name__} {fault}")
        self._plugin.methods[method.name] = method

    def composition(self, name: str, methods: Sequence[str], summary: str = "", source: str = "") -> None:
        """Offer a name for several methods used together.

        Args:
            name: of all of them.
            methods: what to use, in order: methods or compositions.
            summary: what it does, in a sentence.
            source: where it was published.
        """
        names = methods if isinstance(methods, Sequence) and not isinstance(methods, str) else ()
        if not names or not all(isinstance(name, str) for name in names):
            raise PluginError(f"The composition {name!r} needs a list of names of methods, got {methods!r}.")
        fault = _unfit_name(name)
        if fault:
            raise PluginError(f"The composition {name!r} {fault}")
        self._plugin.compositions[name] = Composition(tuple(methods), summary, source)

    def model(self, name: str, factory: Callable[..., Any]) -> None:
        """Offer a network: ``factory(num_classes=, in_chans=, **options)`` returns an ``nn.Module``."""
        self._plugin.models[_offered("network", name, factory)] = factory

    def dataset(self, name: str, factory: Callable[..., Any]) -> None:
        """Offer a data set: ``factory(name, **options)`` returns a ``kdengine.Data``."""
        self._plugin.datasets[_offered("data set", name, factory)] = factory

    def task(self, task: type[Task]) -> None:
        """Offer a task, under its name."""
        from kdengine.tasks.task import Task

        if not (isinstance(task, type) and issubclass(task, Task)) or inspect.isabstract(task):
            raise PluginError(f"registry.task() takes a complete subclass of kdengine.tasks.Task, got {task!r}.")
        self._plugin.tasks[_offered("task", task.name, task)] = task

    def recipes(self, folder: str | Path) -> None:
        """Offer every ``NAME.toml`` in a folder as a recipe."""
        if not (isinstance(folder, str | Path) and os.path.isdir(folder)):
            raise PluginError(f"registry.recipes() takes a folder, got {folder!r}.")
        self._plugin.recipes.append(Path(folder))


def _offered(kind: str, name: str, factory: Callable[..., Any]) -> str:
    """The name of a network or a data set that can be offered.

    Raises:
        PluginError: no spec can say the name, or nothing is made under it.
    """
    if not isinstance(name, str) or re.fullmatch(r"[^\s:@]+", name) is None:
        raise PluginError(f"A {kind} cannot be called {name!r}: a name is text without spaces, ':' and '@'.")
    if not callable(factory):
        raise PluginError(f"The {kind} '{name}' needs a factory that makes it, got {factory!r}.")
    return name


def _unfit_name(name: object) -> str:
    """Why a method cannot be called so, or an empty string."""
    if not isinstance(name, str) or re.fullmatch(r"\w[\w-]*", name) is None:
        return f"cannot be called {name!r}: a name has letters, digits, '-' and '_' only."
    return f"cannot be called '{name}': a setting is called so." if name in Settings.model_fields else ""


def _unfit(method: type[Distiller]) -> str:
    """Why a class cannot be a method, or an empty string."""
    if inspect.isabstract(method):
        return "has no forward(self, step): every method needs one."
    if not isinstance(getattr(method, "name", None), str):
        return 'has no name: write name = "..." in its class.'
    if not (isinstance(method.Options, type) and issubclass(method.Options, Strict)):
        return "has Options of its own kind: write class Options(Distiller.Options)."
    return _unfit_name(method.name) or _unclear(method)


def _unclear(method: type[Distiller]) -> str:
    """Why a class does not say what every method says of itself, or an empty string."""
    try:
        method.describe()
    except Exception as error:  # whatever stands where taps, presets or options belong
        return f"cannot be described: {cause(error)}"
    return ""


def discover() -> Iterator[Plugin]:
    """Every entry point of the group, sorted; a distribution that stands on the path twice counts once."""
    seen: dict[str, list[Plugin]] = {}
    for distribution in distributions():
        try:
            name, points = distribution.name, distribution.entry_points.select(group=GROUP)
            plugins = [Plugin(point.name, name, distribution.version, point.value) for point in points]
        except Exception:  # a damaged installation names nothing that could be shown
            continue
        if plugins and name:
            seen.setdefault(canonical(name), plugins)
    yield from sorted(
        (plugin for plugins in seen.values() for plugin in plugins), key=lambda plugin: (plugin.name, plugin.distribution)
    )


def canonical(name: str) -> str:
    """A distribution's name as package indexes compare it: ``KDplugin_RKD`` is ``kdplugin-rkd``."""
    return re.sub(r"[-_.]+", "-", name).lower()


def import_file(path: Path) -> ModuleType:
    """The module in a Python file, which need not be on the path."""
    place = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]  # two folders may hold files of one name
    name = f"kdengine_file_{re.sub(r'[^0-9a-zA-Z]', '_', path.stem)}_{place}"
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # pydantic and inspect look the module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def distillers_in(module: ModuleType) -> dict[str, type[Distiller]]:
    """The methods that a module defines itself; classes that are only the base of others are left out.

    Raises:
        PluginError: none of its distillers is complete.
    """
    from kdengine.methods.distiller import Distiller

    classes = (item for item in vars(module).values() if isinstance(item, type) and issubclass(item, Distiller))
    own = [item for item in classes if item.__module__ == module.__name__]
    faults = {item.__name__: _unfit(item) for item in own}
    fit = [item for item in own if not faults[item.__name__]]
    if own and not fit:
        raise PluginError(" ".join(f"{name} {fault}" for name, fault in faults.items()))
    return {item.name: item for item in fit}
