"""Calls the hooks of a run's observers; an error in a plugin's hook is reported as that plugin's."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable
from typing import Any

import pluggy

from kdengine.errors import KDError, PluginError, cause
from kdengine.plugins.discovery import Plugin

__all__ = ["Hooks"]


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
