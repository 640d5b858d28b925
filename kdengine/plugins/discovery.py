"""Discovery of plugins from entry points, without importing them, and the registrar that collects what they offer."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from email.parser import HeaderParser
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from importlib_metadata import Distribution, distributions

from kdengine.config.settings import Settings, Strict
from kdengine.errors import PluginError, cause
from kdengine.plugins.adapters import MethodAdapter
from kdengine.plugins.plugin import Composition, Plugin

if TYPE_CHECKING:
    from kdengine.launchers.launcher import Launcher
    from kdengine.methods.distiller import Distiller
    from kdengine.tasks.task import Task

__all__ = [
    "GROUP",
    "Composition",
    "Plugin",
    "Registrar",
    "canonical",
    "check_method",
    "discover",
    "distillers_in",
    "import_file",
]

GROUP = "kdengine"


class Registrar:
    """The argument of a plugin's ``kdengine_register(registry)``: registers what the plugin offers."""

    def __init__(self, plugin: Plugin) -> None:
        self._plugin = plugin

    def distiller(self, method: type[Distiller]) -> None:
        """Register a method."""
        check_method(method, "registry.distiller() takes")
        self._plugin.methods[method.name] = method

    def adapter(self, name: str, load: Callable[[str], type[Distiller]], form: str = "TEXT") -> None:
        """Register an adapter: ``--plugin NAME:TEXT`` runs the method that ``load(TEXT)`` returns.

        Args:
            name: what stands before the colon; give the plugin's entry point the same name.
            load: takes what stands behind the colon and returns a subclass of ``Distiller``. Run folders keep the text and
                load it again. A text that names code on disk must contain ``/`` or a name that ends in ``.py``: by these a
                run folder of somebody else is known to name code, and is refused without ``--trust``.
            form: how the text looks, for help and errors.
        """
        fault = _name_fault(name)
        if fault:
            raise PluginError(f"The adapter {name!r} {fault}")
        if not callable(load):
            raise PluginError(f"The adapter '{name}' needs a callable load(text), got {load!r}.")
        self._plugin.adapters[name] = MethodAdapter(load, form)

    def composition(self, name: str, methods: Sequence[str], summary: str = "", source: str = "") -> None:
        """Register several methods as one.

        Args:
            name: name of the composition.
            methods: names of methods or compositions, in order.
            summary: what it does, in one sentence.
            source: the publication.
        """
        names = methods if isinstance(methods, Sequence) and not isinstance(methods, str) else ()
        if not names or not all(isinstance(name, str) for name in names):
            raise PluginError(f"The composition {name!r} needs a list of method names, got {methods!r}.")
        fault = _name_fault(name)
        if fault:
            raise PluginError(f"The composition {name!r} {fault}")
        self._plugin.compositions[name] = Composition(tuple(methods), summary, source)

    def model(self, name: str, factory: Callable[..., Any]) -> None:
        """Register a network: ``factory(num_classes=, in_chans=, **options)`` returns an ``nn.Module``.

        With a colon at its end, the name is a scheme: ``seg:NAME`` is ``factory(NAME, ..., img_size=(H, W), **options)``.
        """
        self._plugin.models[_checked_name("network", name, factory, ":?")] = factory

    def dataset(self, name: str, factory: Callable[..., Any]) -> None:
        """Register a data set: ``factory(name, **options)`` returns a ``kdengine.Data``."""
        self._plugin.datasets[_checked_name("data set", name, factory)] = factory

    def task(self, task: type[Task]) -> None:
        """Register a task under its ``name``."""
        from kdengine.tasks.task import Task

        if not (isinstance(task, type) and issubclass(task, Task)) or inspect.isabstract(task):
            raise PluginError(f"registry.task() takes a subclass of kdengine.Task without abstract methods, got {task!r}.")
        self._plugin.tasks[_checked_name("task", task.name, task)] = task

    def launcher(self, name: str, launcher: type[Launcher]) -> None:
        """Register a launcher: ``--on NAME`` carries the units of a comparison by it.

        Args:
            name: the ``name`` of the class.
            launcher: a subclass of ``kdengine.Launcher`` without abstract methods.
        """
        from kdengine.launchers.launcher import Launcher

        if not (isinstance(launcher, type) and issubclass(launcher, Launcher)) or inspect.isabstract(launcher):
            raise PluginError(
                f"registry.launcher() takes a subclass of kdengine.Launcher without abstract methods, got {launcher!r}."
            )
        if getattr(launcher, "name", None) != name:
            raise PluginError(
                f"The launcher '{name}' is called {getattr(launcher, 'name', None)!r} in its class: name it alike."
            )
        if not issubclass(launcher.Options, Launcher.Options):
            raise PluginError(f"The Options of the launcher '{name}' must derive from Launcher.Options.")
        self._plugin.launchers[_checked_name("launcher", name, launcher)] = launcher

    def recipes(self, folder: str | Path) -> None:
        """Register every ``NAME.toml`` in a folder as a recipe."""
        if not (isinstance(folder, str | Path) and os.path.isdir(folder)):
            raise PluginError(f"registry.recipes() takes an existing folder, got {folder!r}.")
        self._plugin.recipes.append(Path(folder))


def check_method(method: object, whose: str) -> None:
    """Refuse anything but a valid method; ``whose`` says who takes it.

    Raises:
        PluginError: names the fault.
    """
    from kdengine.methods.distiller import Distiller

    if not (isinstance(method, type) and issubclass(method, Distiller)):
        raise PluginError(f"{whose} a subclass of kdengine.Distiller, got {method!r}.")
    fault = _method_fault(method)
    if fault:
        raise PluginError(f"{method.__name__} {fault}")


def _checked_name(kind: str, name: str, factory: Callable[..., Any], end: str = "") -> str:
    """The name of a network, a data set or a task, once checked together with its factory; ``end`` may follow it.

    Raises:
        PluginError: a spec cannot contain the name, or the factory is not callable.
    """
    if not isinstance(name, str) or re.fullmatch(rf"[^\s:@]+{end}", name) is None:
        raise PluginError(f"A {kind} cannot be named {name!r}: a name must not contain spaces, ':' or '@'.")
    if not callable(factory):
        raise PluginError(f"The {kind} '{name}' needs a callable factory, got {factory!r}.")
    return name


def _name_fault(name: object) -> str:
    """Why a name is invalid for a method or a composition, or an empty string."""
    if not isinstance(name, str) or re.fullmatch(r"\w[\w-]*", name) is None:
        return f"cannot be named {name!r}: a name has only letters, digits, '-' and '_'."
    return f"cannot be named '{name}': that is the name of a setting." if name in Settings.model_fields else ""


def _method_fault(method: type[Distiller]) -> str:
    """Why a class is not a valid method, or an empty string."""
    if inspect.isabstract(method):
        return "has no forward(self, step): every method needs one."
    if not isinstance(getattr(method, "name", None), str):
        return 'has no name: write name = "..." in its class.'
    if not (isinstance(method.Options, type) and issubclass(method.Options, Strict)):
        return "has Options that do not derive from Distiller.Options: write class Options(Distiller.Options)."
    return _name_fault(method.name) or _groups_fault(method.groups) or _description_fault(method)


def _groups_fault(groups: object) -> str:
    """Why the groups of a method are invalid, or an empty string."""
    listed = groups if isinstance(groups, Sequence) and not isinstance(groups, str) else (None,)
    if all(isinstance(name, str) and re.fullmatch(r"\w[\w-]*", name) for name in listed):
        return ""
    return f"has groups = {groups!r}: write a tuple of names of letters, digits, '-' and '_', such as (\"logits\", \"modern\")."


def _description_fault(method: type[Distiller]) -> str:
    """Why a class's describe() fails, or an empty string."""
    try:
        method.describe()
    except Exception as error:  # taps, presets or options may be of any type
        return f"cannot be described: {cause(error)}"
    return ""


def discover() -> Iterator[Plugin]:
    """Every entry point of the group, sorted; a distribution that is on the path twice counts once."""
    seen: dict[str, list[Plugin]] = {}
    for distribution in distributions():
        try:
            if GROUP not in (distribution.read_text("entry_points.txt") or ""):
                continue  # before anything is parsed, which would take a while for every installed package
            points = distribution.entry_points.select(group=GROUP)
            if not points:
                continue
            name, version = _name_and_version(distribution)
            plugins = [Plugin(point.name, name, version, point.value) for point in points]
        except Exception:  # a damaged installation has no usable metadata
            continue
        if plugins and name:
            seen.setdefault(canonical(name), plugins)
    yield from sorted(
        (plugin for plugins in seen.values() for plugin in plugins), key=lambda plugin: (plugin.name, plugin.distribution)
    )


def _name_and_version(distribution: Distribution) -> tuple[str, str]:
    """From the head of its metadata: ``distribution.metadata`` would parse the whole README below it too."""
    text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
    head = HeaderParser().parsestr(text)
    return head["Name"], head["Version"]


def canonical(name: str) -> str:
    """A distribution's name, normalised as package indexes do: ``KDplugin_RKD`` becomes ``kdplugin-rkd``."""
    return re.sub(r"[-_.]+", "-", name).lower()


def import_file(path: Path) -> ModuleType:
    """Import a Python file as a module; it need not be on the path."""
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]  # two folders may hold files of the same name
    name = f"kdengine_file_{re.sub(r'[^0-9a-zA-Z]', '_', path.stem)}_{digest}"
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
    """The valid methods that a module defines itself, without base classes and imported ones.

    Raises:
        PluginError: it defines distillers, but none of them is valid.
    """
    from kdengine.methods.distiller import Distiller

    classes = (item for item in vars(module).values() if isinstance(item, type) and issubclass(item, Distiller))
    own = [item for item in classes if item.__module__ == module.__name__]
    faults = {item.__name__: _method_fault(item) for item in own}
    valid = [item for item in own if not faults[item.__name__]]
    if own and not valid:
        raise PluginError(" ".join(f"{name} {fault}" for name, fault in faults.items()))
    return {item.name: item for item in valid}
