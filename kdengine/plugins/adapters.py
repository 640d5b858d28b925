"""Methods that a plugin's adapter makes of what stands behind a colon, such as ``mdistiller:path/DKD.py``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdengine.errors import KDError, PluginError, cause

if TYPE_CHECKING:
    from kdengine.methods.distiller import Distiller
    from kdengine.plugins.discovery import Plugin

__all__ = ["AdaptedMethods", "MethodAdapter", "forms_of"]


@dataclass(frozen=True)
class MethodAdapter:
    """Makes methods of what stands behind a colon.

    Attributes:
        load: takes that text and returns a distiller.
        form: how the text looks, for help and errors, such as ``PATH/FILE.py``.
    """

    load: Callable[[str], type[Distiller]]
    form: str


def forms_of(plugins: Iterable[Plugin]) -> list[str]:
    """What selects the methods of the plugins' adapters: ``["mdistiller:PATH/FILE.py"]``."""
    return [f"{name}:{adapter.form}" for plugin in plugins for name, adapter in sorted(plugin.adapters.items())]


class AdaptedMethods:
    """The methods that adapters have made so far; each text is loaded once.

    Args:
        check: raises if an object is not a valid method; its second argument says who returned it.
    """

    def __init__(self, check: Callable[[object, str], None]) -> None:
        self._check = check
        self._made: dict[str, type[Distiller]] = {}

    def find(self, text: str, plugins: Iterable[Plugin]) -> type[Distiller] | None:
        """The method ``NAME:TEXT``; None if none of the loaded plugins has an adapter ``NAME``.

        Raises:
            PluginError: the adapter fails, or returns no valid method.
        """
        name, _, inner = text.partition(":")
        for plugin in plugins:
            if inner and name in plugin.adapters:
                plugin.selected = True
                if text not in self._made:
                    self._made[text] = self._load(plugin, name, inner)
                return self._made[text]
        return None

    def _load(self, plugin: Plugin, name: str, inner: str) -> type[Distiller]:
        try:
            method = plugin.adapters[name].load(inner)
        except (KDError, KeyboardInterrupt):
            raise
        except BaseException as error:  # the adapter runs code of the user, which may raise anything
            raise PluginError(f"'{name}:{inner}' failed: {cause(error).rstrip('.')}.") from error
        self._check(method, f"The adapter '{name}' of {plugin.title} must return")
        return method
