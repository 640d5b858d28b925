"""Loading plugins: each is imported alone and registered with pluggy; what fails marks that plugin only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pluggy
from importlib_metadata import EntryPoint

from kdengine._version import API
from kdengine.errors import PluginError, cause
from kdengine.plugins import hookspecs
from kdengine.plugins.discovery import GROUP, Plugin, Registrar, distillers_in, import_file

__all__ = ["PluginLoader", "api_fault", "hooks_in", "isolated", "make_manager"]


class PluginLoader:
    """Imports plugins and registers them.

    Args:
        manager: where they are registered.
    """

    def __init__(self, manager: pluggy.PluginManager) -> None:
        self.manager = manager

    def load(self, plugin: Plugin) -> None:
        """Import and register the plugin of an entry point, once; a failure is recorded in its status."""
        if plugin.status == "found":
            with isolated(plugin):
                self.load_or_raise(plugin)

    def load_or_raise(self, plugin: Plugin) -> None:
        """Import and register the plugin of an entry point; whatever it raises is raised."""
        module = EntryPoint(plugin.name, plugin.target, GROUP).load()
        fault = api_fault(module)
        if fault:
            plugin.status, plugin.reason = "incompatible", fault
            return
        self._register(plugin, module)
        plugin.status = "loaded"

    def load_file(self, path: Path) -> Plugin:
        """Load a plugin from a single file; if it registers nothing itself, its distillers are registered.

        Raises:
            PluginError: the file fails, or holds neither a method nor a hook.
        """
        plugin = Plugin(path.stem, str(path), "", str(path.resolve()), status="loaded")
        try:
            module = import_file(path)
            fault = api_fault(module)
            if fault:
                raise PluginError(fault)
            self._register(plugin, module)
            if not plugin.selectable:
                plugin.methods.update(distillers_in(module))
            if not plugin.selectable and not self.manager.get_hookcallers(module):
                raise PluginError("it has neither a subclass of kdengine.Distiller nor a function marked @hookimpl")
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # the user's file may raise anything
            name = f"{plugin.distribution}:{plugin.name}"
            if self.manager.has_plugin(name):
                self.manager.unregister(name=name)  # the user may fix the file and select it again
            raise PluginError(f"The plugin file '{path}' failed: {cause(error).rstrip('.')}.") from error
        return plugin

    def _register(self, plugin: Plugin, module: Any) -> None:
        """Register the module with pluggy, reject misspelt hooks, and call its ``kdengine_register``."""
        name = f"{plugin.distribution}:{plugin.name}"
        others = set(self.manager.get_plugins())
        known = module in others
        try:
            if not known:
                self.manager.register(module, name)
            self.manager.check_pending()
            plugin.module = module
            self.manager.subset_hook_caller("kdengine_register", others - {module})(registry=Registrar(plugin))
        except BaseException:
            if not known and self.manager.get_plugin(name) is module:  # else the name belongs to another plugin
                self.manager.unregister(name=name)
            raise


def api_fault(module: Any) -> str | None:
    """Why a plugin does not fit this version of kdengine; None if it does, or does not say for which it was written.

    Args:
        module: the plugin's module; its ``KDENGINE_API`` is a version of the contract, or the first and the last one.
    """
    declared: Any = getattr(module, "KDENGINE_API", None)
    if declared is None:
        return None
    ends = (declared, declared) if isinstance(declared, int) else declared
    if not (isinstance(ends, tuple | list) and len(ends) == 2 and all(isinstance(end, int) for end in ends)):
        return f"KDENGINE_API = {declared!r} is not a version, such as 1, or the first and the last one, such as (1, 2)"
    first, last = ends
    if first <= API <= last:
        return None
    versions = str(first) if first == last else f"{first} to {last}"
    fix = "Update kdengine" if first > API else "Update the plugin"
    return f"it was written for version {versions} of kdengine's contract with plugins, and this is version {API}. {fix}"


@contextmanager
def isolated(plugin: Plugin) -> Iterator[None]:
    """Inside, any error marks the plugin as broken and withdraws its offers instead of propagating."""
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a plugin may raise anything
        plugin.status, plugin.reason = "broken", cause(error)
        plugin.withdraw()


def make_manager() -> pluggy.PluginManager:
    """A manager that knows the hooks of kdengine."""
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    return manager


def hooks_in(module: Any) -> list[str]:
    """The names of what a module, or an object, marks as implementations of hooks."""
    manager = make_manager()
    return [name for name in dir(module) if manager.parse_hookimpl_opts(module, name) is not None]
