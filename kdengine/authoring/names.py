"""Names of new plugins: which are allowed, and what follows from one."""

from __future__ import annotations

import keyword
import re
from collections.abc import Collection

from kdengine.config.settings import Settings
from kdengine.errors import PluginError
from kdengine.launchers import BUILT_IN as LAUNCHERS
from kdengine.plugins.discovery import canonical
from kdengine.plugins.registry import Registry
from kdengine.tasks import BUILT_IN

__all__ = ["PREFIX", "check_free", "check_name", "class_name_of", "module_name_of", "normalised"]

PREFIX = "kdplugin-"
NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


def check_name(name: str) -> None:
    """Refuse a name that no package can have.

    Raises:
        PluginError: with the rule, and the nearest name that is allowed.
    """
    if name.startswith(PREFIX):
        raise PluginError(f"'{name}': leave out '{PREFIX}', which the package gets anyway. Write {name.removeprefix(PREFIX)}.")
    if NAME.fullmatch(name) is None:
        near = normalised(name)
        fix = f" Write {near}." if NAME.fullmatch(near) else ""
        raise PluginError(
            f"A plugin cannot be named '{name}': a name has lowercase letters, digits and single hyphens between them, and "
            f"begins with a letter.{fix}"
        )
    if keyword.iskeyword(name) or name in Settings.model_fields:
        what = "a keyword of Python" if keyword.iskeyword(name) else "the name of a setting of kdengine"
        raise PluginError(f"A plugin cannot be named '{name}', which is {what}. Choose another name, such as {name}-kd.")


def check_free(name: str, registry: Registry) -> None:
    """Refuse a name that is taken here.

    Args:
        name: of a package without its prefix, of a method, of a task or of a launcher.
        registry: has what is installed; every plugin that is not blocked is loaded.

    Raises:
        PluginError: says by what.
    """
    registry.load_all()
    for what, own in (("task", BUILT_IN), ("launcher", LAUNCHERS)):
        if name in own:
            raise PluginError(f"'{name}' is a {what} of kdengine itself. Choose another name.")
    for plugin in registry.plugins:
        offers: dict[str, Collection[str]] = {
            "method": plugin.methods,
            "composition": plugin.compositions,
            "task": plugin.tasks,
            "launcher": plugin.launchers,
        }
        kinds = [kind for kind, offered in offers.items() if name in offered]
        if kinds or name == plugin.name or canonical(plugin.distribution) == f"{PREFIX}{name}":
            what = kinds[0] if kinds else "plugin"
            raise PluginError(f"'{name}' is an installed {what}, of {plugin.title}. Choose another name.")


def normalised(name: str) -> str:
    """The nearest name that is allowed, if any: ``My_KD`` becomes ``my-kd``."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def module_name_of(name: str) -> str:
    """The module of a plugin: ``my-kd`` is in ``kdplugin_my_kd``."""
    return f"{PREFIX}{name}".replace("-", "_")


def class_name_of(name: str, kind: str, text: str) -> str:
    """The class of a plugin: ``my-kd`` is ``MyKd``; with its kind at the end if some text uses that word already.

    Args:
        name: of the plugin.
        kind: method, task, observer or launcher.
        text: all code that the class will stand in.
    """
    plain = "".join(part.capitalize() for part in name.split("-"))
    taken = keyword.iskeyword(plain) or re.search(rf"\b{plain}\b", text)
    return f"{plain}{kind.capitalize()}" if taken else plain
