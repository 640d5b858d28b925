"""Calls the hooks of a run's observers; an error in a plugin's hook is reported as that plugin's."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

import pluggy

from kdengine.errors import KDError, PluginError, cause
from kdengine.plugins import hookspecs
from kdengine.plugins.discovery import Plugin

__all__ = ["Hooks", "register"]


def register(manager: pluggy.PluginManager, observer: object) -> None:
    """Register a plugin's module or an observer.

    Args:
        manager: knows the hooks.
        observer: a module or an object.

    Raises:
        PluginError: it could never be called: it has no hooks, unmarked ones, or hooks with unknown arguments.
    """
    names = [name for name in vars(hookspecs) if name.startswith("kdengine_")]
    owner = getattr(observer, "__name__", type(observer).__name__)
    if isinstance(observer, type):
        raise PluginError(f"The observer {owner} was given as a class. Give an object of it: {owner}().")
    unmarked = [name for name in names if name in dir(observer) and manager.parse_hookimpl_opts(observer, name) is None]
    if unmarked:
        raise PluginError(f"{owner}.{unmarked[0]} would never be called: mark it with @hookimpl of kdengine.")
    try:
        manager.register(observer)
    except pluggy.PluginValidationError as error:
        raise PluginError(f"The observer {owner} cannot be used: {cause(error)}.") from error
    if not isinstance(observer, ModuleType) and not manager.get_hookcallers(observer):
        raise PluginError(
            f"The observer {owner} has no hooks, so nothing of it would be called. The hooks are: {', '.join(names)}."
        )


class Hooks:
    """The hooks of one run: ``hooks.kdengine_after_epoch(run=run, record=record)`` calls every observer.

    Args:
        manager: the manager with which all observers are registered.
        plugins: the observers that are plugins; exceptions from others propagate unchanged, for the caller to catch.
    """

    def __init__(self, manager: pluggy.PluginManager, plugins: Iterable[Plugin]) -> None:
        self._manager = manager
        self._plugins = {plugin.module.__name__: plugin for plugin in plugins}

    def __getattr__(self, name: str) -> Callable[..., Any]:
        hook = getattr(self._manager.hook, name)

        def call(**arguments: Any) -> Any:
            try:
                return hook(**arguments)
            except KDError:
                raise
            except Exception as error:  # a plugin may raise anything
                plugin = self._to_blame(error)
                if plugin is None:
                    raise
                raise PluginError(
                    f"The plugin '{plugin.name}' of {plugin.title} failed in {name}: {cause(error).rstrip('.')}. "
                    "This is a bug in the plugin: run without it, or update it."
                ) from error

        return call

    def _to_blame(self, error: Exception) -> Plugin | None:
        """The plugin whose code raised an error, if any."""
        for frame, _ in traceback.walk_tb(error.__traceback__):
            module = str(frame.f_globals.get("__name__"))
            for name, plugin in self._plugins.items():
                if module == name or module.startswith(f"{name}."):
                    return plugin
        return None
