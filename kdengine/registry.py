"""Plugins: finding, loading, blocking and listing them.

Discovery reads entry points only; a module is imported when a run selects it, alone, so that one broken plugin never
stops a run that does not use it.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pluggy
from importlib_metadata import EntryPoint, distributions

from kdengine import hookspecs
from kdengine.errors import KDError, PluginError, did_you_mean

if TYPE_CHECKING:
    from kdengine.distiller import Distiller

__all__ = ["Plugin", "Registrar", "Registry"]

GROUP = "kdengine"
ALLOW = "KDENGINE_LOAD_PLUGINS"


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
        compositions: name -> methods, in order.
        models: name -> factory.
        datasets: name -> factory.
        recipes: folders with TOML files.
    """

    name: str
    distribution: str
    version: str
    target: str
    status: str = "found"
    reason: str = ""
    methods: dict[str, type[Distiller]] = field(default_factory=dict)
    compositions: dict[str, tuple[str, ...]] = field(default_factory=dict)
    models: dict[str, Callable[..., Any]] = field(default_factory=dict)
    datasets: dict[str, Callable[..., Any]] = field(default_factory=dict)
    recipes: list[Path] = field(default_factory=list)

    @property
    def title(self) -> str:
        return f"{self.distribution} {self.version}".strip()


class Registrar:
    """What a plugin's ``kdengine_register(registry)`` receives: a place to offer things, under its own name."""

    def __init__(self, plugin: Plugin) -> None:
        self._plugin = plugin

    def distiller(self, method: type[Distiller]) -> None:
        """Offer a method."""
        from kdengine.distiller import Distiller

        if not (isinstance(method, type) and issubclass(method, Distiller)):
            raise PluginError(f"registry.distiller() takes a subclass of kdengine.Distiller, got {method!r}.")
        self._plugin.methods[method.name] = method

    def composition(self, name: str, methods: Sequence[str]) -> None:
        """Offer a name for several methods used together."""
        self._plugin.compositions[name] = tuple(methods)

    def model(self, name: str, factory: Callable[..., Any]) -> None:
        """Offer a network: ``factory(num_classes=, in_chans=, **options)`` returns an ``nn.Module``."""
        self._plugin.models[name] = factory

    def dataset(self, name: str, factory: Callable[..., Any]) -> None:
        """Offer a data set: ``factory(name, **options)`` returns a ``kdengine.data.Data``."""
        self._plugin.datasets[name] = factory

    def recipes(self, folder: str | Path) -> None:
        """Offer every ``NAME.toml`` in a folder as a recipe."""
        self._plugin.recipes.append(Path(folder))


class Registry:
    """The plugins of one engine.

    Args:
        allow: names of entry points or distributions that may be loaded, all others being blocked; by default what
            the environment variable ``KDENGINE_LOAD_PLUGINS`` lists (comma-separated), or all.
    """

    def __init__(self, allow: Iterable[str] | None = None) -> None:
        self.manager = pluggy.PluginManager(hookspecs.PROJECT)
        self.manager.add_hookspecs(hookspecs)
        self.plugins = list(_discover())
        if allow is None and ALLOW in os.environ:
            allow = [name.strip() for name in os.environ[ALLOW].split(",") if name.strip()]
        if allow is not None:
            self._block_all_but({_canonical(name) for name in allow})

    def methods(self, text: str) -> list[type[Distiller]]:
        """The methods that ``--plugin TEXT`` selects: one, several for a composition, none for a mere observer.

        Args:
            text: a method, a distribution that offers one method, ``distribution:method``, or a Python file.

        Raises:
            PluginError: unknown, ambiguous, blocked or broken.
        """
        if text.endswith(".py") or os.sep in text:
            return list(self._load_file(Path(text)).methods.values())
        distribution, colon, method = text.partition(":")
        if colon:
            return self._of_distribution(distribution, method)
        named = [plugin for plugin in self.plugins if plugin.name == text]
        for plugin in named:
            self._load(plugin, needed=len(named) == 1)
        found = self._offer("methods", text) or self._offer("compositions", text)
        if found is None and any(_canonical(plugin.distribution) == _canonical(text) for plugin in self.plugins):
            return self._of_distribution(text, "")
        if found is None:
            self.load_all()
            found = self._offer("methods", text) or self._offer("compositions", text)
        if found is None:
            raise self._unknown(text)
        if isinstance(found, tuple):
            return [method for name in found for method in self.methods(name)]
        return [found]

    def model(self, name: str) -> Callable[..., Any] | None:
        """The factory of a network that a plugin offers, or None."""
        return self._search("models", name)

    def dataset(self, name: str) -> Callable[..., Any] | None:
        """The factory of a data set that a plugin offers, or None."""
        return self._search("datasets", name)

    def recipe(self, name: str) -> Path:
        """The file of a recipe.

        Raises:
            PluginError: no plugin ships such a recipe.
        """
        for plugin in self._by_likelihood():
            self._load(plugin)
            for folder in plugin.recipes:
                if (folder / f"{name}.toml").is_file():
                    return folder / f"{name}.toml"
        known = sorted(file.stem for plugin in self.plugins for folder in plugin.recipes for file in folder.glob("*.toml"))
        near = did_you_mean(name, known) or f"There are: {', '.join(known) or 'none'}."
        raise PluginError(f"There is no recipe '{name}'. {near}")

    def offered(self, kind: str) -> dict[str, Any]:
        """Everything of a kind (``methods``, ``models``, ``datasets``) that the loaded plugins offer, by name."""
        return {name: item for plugin in self.plugins for name, item in sorted(getattr(plugin, kind).items())}

    def load_all(self) -> None:
        """Load every plugin that is not blocked; what fails is marked as broken, what comes second as shadowed."""
        for plugin in self.plugins:
            self._load(plugin)
        owners: dict[str, Plugin] = {}
        for plugin in self.plugins:
            for name in (*plugin.methods, *plugin.compositions):
                owner = owners.setdefault(name, plugin)
                if owner.distribution != plugin.distribution:
                    plugin.status, plugin.reason = "shadowed", f"'{name}' is also offered by {owner.title}"

    def load_models(self) -> None:
        """Load the plugins that may offer networks or recipes."""
        for plugin in self._by_likelihood():
            self._load(plugin)

    def _search(self, kind: str, name: str) -> Callable[..., Any] | None:
        for plugin in self._by_likelihood():
            self._load(plugin)
            found: Callable[..., Any] | None = getattr(plugin, kind).get(name)
            if found is not None:
                return found
        return None

    def _by_likelihood(self) -> list[Plugin]:
        """Plugins in the order in which networks, data and recipes are looked for: those of methods come last."""
        return sorted(self.plugins, key=lambda plugin: plugin.distribution.startswith("kdplugin"))

    def _offer(self, kind: str, name: str) -> Any:
        """What the loaded plugins offer under a name, or None; two distributions with one name are an error."""
        offers = [plugin for plugin in self.plugins if name in getattr(plugin, kind)]
        owners = {plugin.distribution: plugin for plugin in offers}
        if len(owners) > 1:
            choices = " or ".join(f"--plugin {distribution}:{name}" for distribution in owners)
            titles = " and ".join(plugin.title for plugin in owners.values())
            raise PluginError(f"Both {titles} offer '{name}'. Choose one: {choices}.")
        return getattr(offers[0], kind)[name] if offers else None

    def _of_distribution(self, distribution: str, method: str) -> list[type[Distiller]]:
        """One method of a distribution; without a name, its only one."""
        plugins = [plugin for plugin in self.plugins if _canonical(plugin.distribution) == _canonical(distribution)]
        if not plugins:
            raise self._unknown(distribution)
        for plugin in plugins:
            self._load(plugin, needed=True)
        offered = {name: found for plugin in plugins for name, found in plugin.methods.items()}
        if method in offered:
            return [offered[method]]
        if not method and len(offered) <= 1:
            return list(offered.values())
        choices = ", ".join(f"{distribution}:{name}" for name in offered)
        fix = did_you_mean(method, offered) or f"Choose one: {choices}."
        but = f", but not '{method}'" if method else ""
        raise PluginError(f"{plugins[0].title} offers {len(offered)} methods{but}. {fix}")

    def _unknown(self, text: str) -> PluginError:
        names = {name for plugin in self.plugins for name in (plugin.name, plugin.distribution, *plugin.methods)}
        names |= {name for plugin in self.plugins for name in plugin.compositions}
        near = did_you_mean(text, names) or f"Installed: {', '.join(sorted(self.offered('methods'))) or 'no methods'}."
        return PluginError(f"There is no plugin '{text}'. {near} 'kdengine plugins' lists them.")

    def _block_all_but(self, allowed: set[str]) -> None:
        for plugin in self.plugins:
            if not {_canonical(plugin.name), _canonical(plugin.distribution)} & allowed:
                plugin.status, plugin.reason = "blocked", f"not listed in {ALLOW}"

    def _load(self, plugin: Plugin, needed: bool = False) -> None:
        """Import and register a plugin once; a failure is noted, and raised only where the plugin is needed."""
        if plugin.status == "found":
            try:
                self._register(plugin, EntryPoint(plugin.name, plugin.target, GROUP).load())
                plugin.status = "loaded"
            except Exception as error:  # a plugin may fail in any way
                plugin.status, plugin.reason = "broken", _cause(error)
        if needed and plugin.status in ("broken", "blocked"):
            fix = (
                f"Reinstall or update it: pip install -U {plugin.distribution}."
                if plugin.status == "broken"
                else f"Add '{plugin.name}' to {ALLOW}."
            )
            raise PluginError(f"The plugin '{plugin.name}' of {plugin.title} is {plugin.status}: {plugin.reason}. {fix}")

    def _register(self, plugin: Plugin, module: Any) -> None:
        """Hand the module to pluggy, find misspelt hooks, and let it offer what it has."""
        name = f"{plugin.distribution}:{plugin.name}"
        others = set(self.manager.get_plugins())
        try:
            if module not in others:
                self.manager.register(module, name)
            self.manager.check_pending()
            self.manager.subset_hook_caller("kdengine_register", others - {module})(registry=Registrar(plugin))
        except Exception:
            if self.manager.has_plugin(name):
                self.manager.unregister(name=name)
            raise

    def _load_file(self, path: Path) -> Plugin:
        """Load a plugin that is a single file; without a registration of its own, its distillers are offered."""
        if not path.is_file():
            raise PluginError(f"There is no file '{path}'. --plugin takes a method, a distribution, or a Python file.")
        known = next((plugin for plugin in self.plugins if plugin.target == str(path.resolve())), None)
        if known is not None:
            return known
        plugin = Plugin(path.stem, str(path), "", str(path.resolve()), status="loaded")
        try:
            module = _import_file(path)
            self._register(plugin, module)
        except Exception as error:  # the user's file may fail in any way
            raise PluginError(f"The plugin file '{path}' failed: {_cause(error)}.") from error
        if not plugin.methods:
            plugin.methods.update(_distillers_in(module))
        self.plugins.append(plugin)
        return plugin


def _discover() -> Iterator[Plugin]:
    """Every entry point of the group, sorted; a distribution that stands on the path twice counts once."""
    seen: dict[str, list[Plugin]] = {}
    for distribution in distributions():
        points = distribution.entry_points.select(group=GROUP)
        if not points or _canonical(distribution.name) in seen:
            continue
        seen[_canonical(distribution.name)] = [
            Plugin(point.name, distribution.name, distribution.version, point.value) for point in points
        ]
    yield from sorted(
        (plugin for plugins in seen.values() for plugin in plugins), key=lambda plugin: (plugin.name, plugin.distribution)
    )


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _cause(error: BaseException) -> str:
    text = " ".join(str(error).split()) or "no message"
    return text if isinstance(error, KDError) else f"{type(error).__name__}: {text}"


def _import_file(path: Path) -> ModuleType:
    name = "kdengine_file_" + re.sub(r"[^0-9a-zA-Z]", "_", path.stem)
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # pydantic and inspect look the module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _distillers_in(module: ModuleType) -> dict[str, type[Distiller]]:
    from kdengine.distiller import Distiller

    classes = (item for item in vars(module).values() if isinstance(item, type) and issubclass(item, Distiller))
    return {item.name: item for item in classes if item.__module__ == module.__name__}
