"""The registry of plugins: finds, loads, blocks and lists them.

Discovery reads entry points only. Each module is imported in isolation when a run selects it, so that a broken plugin never
stops a run that does not use it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pluggy

from kdengine.errors import PluginError, cause, did_you_mean, missing
from kdengine.plugins import hookspecs
from kdengine.plugins.adapters import AdaptedMethods, forms_of
from kdengine.plugins.discovery import Composition, Plugin, canonical, check_method, discover
from kdengine.plugins.hooks import Hooks, register
from kdengine.plugins.loader import PluginLoader, isolated, make_manager
from kdengine.plugins.unknown import UNUSABLE, unknown_plugin, unusable_plugin

if TYPE_CHECKING:
    import click

    from kdengine.launchers.launcher import Launcher
    from kdengine.methods.distiller import Distiller
    from kdengine.tasks.task import Task

__all__ = ["ALLOW", "Registry"]

ALLOW = "KDENGINE_LOAD_PLUGINS"
"""The environment variable with the names of the plugins that may be loaded."""


class Registry:
    """The plugins of one engine.

    Args:
        allow: names of the entry points or distributions that may be loaded; all others are blocked. By default those
            listed in the environment variable ``KDENGINE_LOAD_PLUGINS`` (comma-separated), or all if it is unset.
    """

    def __init__(self, allow: Iterable[str] | None = None) -> None:
        self.manager = make_manager()
        self._loader = PluginLoader(self.manager)
        self.plugins = list(discover())
        self.files: dict[Path, Plugin] = {}
        self._adapted = AdaptedMethods(check_method)
        if allow is None and ALLOW in os.environ:
            allow = [name.strip() for name in os.environ[ALLOW].split(",") if name.strip()]
        if allow is not None:
            self._block_all_but({canonical(name) for name in allow})

    def methods(self, text: str) -> list[type[Distiller]]:
        """The methods that ``--plugin TEXT`` selects: one, several for a composition, none for an observer.

        Args:
            text: a method, a distribution that offers one method, ``distribution:method``, a Python file, followed by
                ``:method`` if it has several, or ``adapter:TEXT``.

        Raises:
            PluginError: the plugin is unknown, ambiguous, blocked or broken.
        """
        return self._select(text, ())

    def model(self, name: str) -> Callable[..., Any] | None:
        """A plugin's factory for the network with this name, or None."""
        return self._search("models", name)

    def dataset(self, name: str) -> Callable[..., Any] | None:
        """A plugin's factory for the data set with this name, or None."""
        return self._search("datasets", name)

    def task(self, name: str) -> type[Task]:
        """The task with this name: built in, or a plugin's.

        Raises:
            PluginError: there is no such task.
        """
        from kdengine.tasks import BUILT_IN

        return cast("type[Task]", self._named("task", BUILT_IN, name))

    def launcher(self, name: str) -> type[Launcher]:
        """The launcher with this name: built in, or a plugin's.

        Raises:
            PluginError: there is no such launcher, or its plugin is broken.
        """
        from kdengine.launchers import BUILT_IN

        if name not in BUILT_IN:
            for plugin in [plugin for plugin in self.plugins if plugin.name == name]:
                self._load(plugin, needed=True)
        return cast("type[Launcher]", self._named("launcher", BUILT_IN, name))

    def recipe(self, name: str) -> Path:
        """The file of a recipe.

        Raises:
            PluginError: no plugin ships a recipe with this name.
        """
        for plugin in self._by_likelihood():
            self._load(plugin)
            for folder in plugin.recipes:
                if os.path.isfile(folder / f"{name}.toml"):
                    return folder / f"{name}.toml"
        known = sorted(file.stem for plugin in self._everything for folder in plugin.recipes for file in folder.glob("*.toml"))
        near = did_you_mean(name, known) or f"Available: {', '.join(known) or 'none'}."
        raise PluginError(f"There is no recipe '{name}'. {near}")

    def offered(self, kind: str) -> dict[str, Any]:
        """All items of a kind (``methods``, ``models``, ``datasets`` ...) that the loaded plugins offer, by name."""
        return {name: item for plugin in self._everything for name, item in sorted(getattr(plugin, kind).items())}

    def load_all(self) -> None:
        """Load every plugin that is not blocked, marking failures as broken and second owners of a name as shadowed."""
        for plugin in self.plugins:
            self._load(plugin)
        owners: dict[str, Plugin] = {}
        for plugin in self.plugins:
            for name in plugin.selectable:
                owner = owners.setdefault(name, plugin)
                if owner.distribution != plugin.distribution:
                    plugin.status, plugin.reason = "shadowed", f"'{name}' is also offered by {owner.title}"

    def all_methods(self, serving: str | None = None) -> list[str]:
        """The names of all methods and compositions, sorted; loads every plugin that is not blocked.

        Args:
            serving: only those that are defined for such outputs of networks, as ``classes`` or ``labels``.
        """
        self.load_all()
        names = sorted([*self.offered("methods"), *self.offered("compositions")])
        return [name for name in names if serving is None or all(serving in kind.serves for kind in self.methods(name))]

    def hooks(self, observers: Iterable[object]) -> Hooks:
        """The hooks of one run: those of the plugins selected so far, and of observers for this run only.

        The hooks of a plugin that was loaded only to search for a name are not called.

        Raises:
            PluginError: an observer has no hooks, or one that could not be called.
        """
        manager = make_manager()
        selected = {plugin.module: plugin for plugin in self._everything if plugin.selected}
        for observer in (*selected, *observers):
            register(manager, observer)
        try:
            manager.check_pending()
        except pluggy.PluginValidationError as error:
            hooks = ", ".join(name for name in vars(hookspecs) if name.startswith("kdengine_"))
            raise PluginError(f"An observer cannot be used: {cause(error)}. The hooks are: {hooks}.") from error
        return Hooks(manager, selected.values())

    def add_commands(self, cli: click.Group) -> None:
        """Let every plugin that is not blocked add its commands; one that fails is marked as broken."""
        self.load_all()
        modules = set(self.manager.get_plugins())
        for plugin in self.plugins:
            if plugin.status == "loaded":
                with isolated(plugin):
                    self.manager.subset_hook_caller("kdengine_commands", modules - {plugin.module})(cli=cli)

    def load_models(self) -> None:
        """Load the plugins that may offer networks or recipes."""
        for plugin in self._by_likelihood():
            self._load(plugin)

    def _search(self, kind: str, name: str) -> Callable[..., Any] | None:
        for plugin in self._by_likelihood():
            self._load(plugin)
            item: Callable[..., Any] | None = getattr(plugin, kind).get(name)
            if item is not None:
                return item
        return None

    def _named(self, word: str, built_in: Mapping[str, Any], name: str) -> Any:
        """What is built in under a name, or else a plugin's."""
        item = built_in.get(name) or self._search(f"{word}s", name)
        if item is None:
            known = [*built_in, *self.offered(f"{word}s")]
            near = did_you_mean(name, known) or f"Available: {', '.join(known)}."
            raise PluginError(f"There is no {word} '{name}'. {near}")
        return item

    @property
    def _everything(self) -> list[Plugin]:
        return [*self.plugins, *self.files.values()]

    def _by_likelihood(self) -> list[Plugin]:
        """Plugins in the order in which to search for networks, data and recipes: zoos early, methods last."""
        return sorted(
            self._everything, key=lambda plugin: (plugin.distribution.startswith("kdplugin"), "zoo" not in plugin.name)
        )

    def _select(self, text: str, within: tuple[str, ...]) -> list[type[Distiller]]:
        """:meth:`methods`, inside the compositions ``within``."""
        adapted = self._adapt(text)
        if adapted is not None:
            return [adapted]
        head, colon, method = (text, "", "") if text.endswith(".py") else text.partition(":")
        if head.endswith(".py") or os.sep in head:
            return self._choose([self._load_file(Path(head))], head, method, within)
        named = [plugin for plugin in self.plugins if plugin.name == head]
        owners = [plugin for plugin in self.plugins if canonical(plugin.distribution) == canonical(head)]
        if colon:
            if not owners and not named:
                raise unknown_plugin(self._everything, head)
            return self._choose(owners or named, head, method, within)
        for plugin in named:
            self._load(plugin, needed=len(named) == 1)
        selection = self._offer(text)
        if selection is None and (named or owners):
            return self._choose(named or owners, text, "", within)
        if selection is None:
            self.load_all()
            selection = self._offer(text)
        if selection is None:
            raise unknown_plugin(self._everything, text)
        return self._expand(text, selection, within)

    def _adapt(self, text: str) -> type[Distiller] | None:
        """The method that an adapter makes of ``NAME:TEXT``, or None if no plugin of this name has one."""
        named = [plugin for plugin in self.plugins if text.startswith(f"{plugin.name}:")]
        for plugin in named:
            self._load(plugin, needed=len(named) == 1)
        return self._adapted.find(text, self.plugins)

    def _expand(self, name: str, selection: Any, within: tuple[str, ...]) -> list[type[Distiller]]:
        """The methods of a composition, in order, or the one method."""
        if not isinstance(selection, Composition):
            return [selection]
        if name in within:
            raise PluginError(
                f"The composition '{name}' contains itself: {' > '.join([*within, name])}. This is a bug in the plugin."
            )
        return [method for part in selection.methods for method in self._select(part, (*within, name))]

    def _offer(self, name: str) -> Any:
        """The method or composition that the loaded plugins offer under a name, or None.

        Raises:
            PluginError: two distributions offer it.
        """
        for plugins in (self.plugins, list(self.files.values())):  # an installed method takes precedence over a file's
            owners = {plugin.distribution: plugin for plugin in plugins if name in plugin.selectable}
            if len(owners) > 1:
                choices = " or ".join(f"--plugin {distribution}:{name}" for distribution in owners)
                titles = " and ".join(plugin.title for plugin in owners.values())
                raise PluginError(f"Both {titles} offer '{name}'. Choose one: {choices}.")
            for plugin in owners.values():
                plugin.selected = True
                return plugin.selectable[name]
        return None

    def _choose(self, plugins: list[Plugin], text: str, method: str, within: tuple[str, ...]) -> list[type[Distiller]]:
        """One method of the plugins that ``text`` selects; without a name, the only one."""
        for plugin in plugins:
            self._load(plugin, needed=True)
            plugin.selected = True
        methods = [name for plugin in plugins for name in plugin.methods]
        offered = {name: item for plugin in plugins for name, item in plugin.selectable.items()}
        only = methods if len(methods) == 1 else list(offered)
        if not only and forms_of(plugins):
            raise PluginError(f"'{text}' has no method of its own. Name one that it adapts: {', '.join(forms_of(plugins))}.")
        if not method and not only:
            return []
        if not method and len(only) == 1:
            method = only[0]
        if method in offered:
            return self._expand(method, offered[method], within)
        choices = ", ".join(f"{text}:{name}" for name in offered)
        fix = did_you_mean(method, offered) or (f"Choose one: {choices}." if choices else "Name a plugin that offers a method.")
        but = f", but not '{method}'" if method else ""
        raise PluginError(f"{plugins[0].title} offers {len(offered)} methods{but}. {fix}")

    def _block_all_but(self, allowed: set[str]) -> None:
        for plugin in self.plugins:
            if not {canonical(plugin.name), canonical(plugin.distribution)} & allowed:
                plugin.status, plugin.reason = "blocked", f"not listed in {ALLOW}"

    def _load(self, plugin: Plugin, needed: bool = False) -> None:
        """Import and register a plugin once; a failure is recorded, and raised only if the plugin is needed."""
        self._loader.load(plugin)
        if needed and plugin.status in UNUSABLE:
            raise unusable_plugin(plugin, f"Add '{plugin.name}' to {ALLOW}.")

    def _load_file(self, path: Path) -> Plugin:
        """The plugin in a single file, loaded once."""
        if not os.path.isfile(path):  # unlike Path.is_file, false for text that cannot be a path
            self.load_all()
            kinds = ", ".join(["a method", "a distribution", *forms_of(self.plugins)])
            raise PluginError(f"{missing('file', path)} --plugin takes {kinds} or a Python file.")
        resolved = path.resolve()
        if resolved not in self.files:
            self.files[resolved] = self._loader.load_file(path)
        return self.files[resolved]
