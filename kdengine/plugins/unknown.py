"""What is said of a name that no plugin has, and of a plugin that cannot be used."""

from __future__ import annotations

import re
from collections.abc import Sequence

from kdengine.errors import PluginError, did_you_mean
from kdengine.plugins.plugin import Plugin

__all__ = ["UNUSABLE", "unknown_plugin", "unusable_plugin"]

UNUSABLE = ("broken", "incompatible", "blocked")
"""Statuses of plugins that cannot be used."""


def unknown_plugin(plugins: Sequence[Plugin], text: str) -> PluginError:
    """The error for a plugin that does not exist, with the nearest names, or all of them.

    Args:
        plugins: those that were found; the ones in files are included.
        text: what was asked for.
    """
    names = {name for plugin in plugins for name in (plugin.name, plugin.distribution, *plugin.selectable)}
    installed = ", ".join(sorted({name for plugin in plugins for name in plugin.methods}))
    unusable = [f"'{plugin.name}' ({plugin.status})" for plugin in plugins if plugin.status in UNUSABLE]
    none = "" if unusable else "No methods are installed; pip install 'kdengine[all]' installs them all."
    parts = [part.strip() for part in re.split("[+,]", text)]
    several = (
        f"Name each on its own: --plugin {' --plugin '.join(parts)}." if len(parts) > 1 and names.issuperset(parts) else ""
    )
    near = several or did_you_mean(text, names) or (f"Installed: {installed}." if installed else none)
    hint = f" Not usable: {', '.join(unusable)}." if unusable else ""
    answer = f"There is no plugin '{text}'. {near}{hint} 'kdengine plugins' lists all plugins."
    return PluginError(answer.replace("  ", " "))


def unusable_plugin(plugin: Plugin, unblock: str) -> PluginError:
    """The error for a plugin that is needed and broken, incompatible or blocked.

    Args:
        plugin: the plugin.
        unblock: how to allow one that is blocked.
    """
    fix = unblock if plugin.status == "blocked" else f"Reinstall or update it: pip install -U {plugin.distribution}."
    return PluginError(f"The plugin '{plugin.name}' of {plugin.title} is {plugin.status}: {plugin.reason.rstrip('.')}. {fix}")
