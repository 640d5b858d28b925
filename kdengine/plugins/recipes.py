"""Recipes: published protocols, and files of settings, as the values that a run begins from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdengine.config.settings import read_toml
from kdengine.config.trust import check_trusted
from kdengine.errors import KDError
from kdengine.plugins.selection import belongs_to, names_of

if TYPE_CHECKING:
    from kdengine.methods.distiller import Distiller
    from kdengine.plugins.registry import Registry

__all__ = ["recipe_values"]


def recipe_values(recipe: str, methods: Sequence[str | Distiller], registry: Registry, trust: bool = False) -> dict[str, Any]:
    """The settings of a recipe or a TOML file; its options for methods that the run does not use are left out.

    Args:
        recipe: name of a recipe, or path of a file that ends in ``.toml``.
        methods: the methods of the run, named or made by the caller (who then gave them their options); the recipe's own
            where there are none.
        registry: finds recipes and methods.
        trust: whether a file may name code: ``python:`` specs and plugin files.

    Raises:
        PluginError: there is no such recipe.
        SettingsError: the file is missing or is no TOML.
    """
    values = read_toml(Path(recipe) if recipe.endswith(".toml") else registry.recipe(recipe))
    check_trusted(values, recipe, trust or not recipe.endswith(".toml"))
    options = values.get("options")
    chosen = methods or values.get("methods", ())
    if not isinstance(options, Mapping) or not isinstance(chosen, list | tuple):
        return values  # the settings will say what is wrong with them
    used = {name for text in chosen if isinstance(text, str) for name in _names(text, registry)}
    return {**values, "options": {key: value for key, value in options.items() if belongs_to(key, used)}}


def _names(plugin: str, registry: Registry) -> set[str]:
    try:
        return names_of([plugin], registry)
    except KDError:  # the settings will say so, beside all else that is wrong
        return set()
