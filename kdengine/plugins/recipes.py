"""Recipes: published protocols and settings files, as the values that a run starts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdengine.config.trust import check_trusted
from kdengine.config.values import read_toml
from kdengine.errors import KDError
from kdengine.plugins.selection import belongs_to, names_of

if TYPE_CHECKING:
    from kdengine.methods.distiller import Distiller
    from kdengine.plugins.registry import Registry

__all__ = ["recipe_values"]


def recipe_values(recipe: str, methods: Sequence[str | Distiller], registry: Registry, trust: bool = False) -> dict[str, Any]:
    """The settings of a recipe or a TOML file, without its options for methods that the run does not use.

    Args:
        recipe: name of a recipe, or path of a file that ends in ``.toml``.
        methods: the methods of the run, by name or as objects (which already have their options); the recipe's own if empty.
        registry: finds recipes and methods.
        trust: whether a file may name code: ``python:`` specs and plugin files.

    Raises:
        PluginError: there is no such recipe.
        SettingsError: the file is missing or is not valid TOML.
    """
    values = read_toml(Path(recipe) if recipe.endswith(".toml") else registry.recipe(recipe))
    check_trusted(values, recipe, trust or not recipe.endswith(".toml"))
    options = values.get("options")
    chosen = methods or values.get("methods", ())
    if not isinstance(options, Mapping) or not isinstance(chosen, list | tuple):
        return values  # invalid; the validation of the settings reports it
    used = {name for text in chosen if isinstance(text, str) for name in _names(text, registry)}
    return {**values, "options": {key: value for key, value in options.items() if belongs_to(key, used)}}


def _names(plugin: str, registry: Registry) -> set[str]:
    try:
        return names_of([plugin], registry)
    except KDError:  # the validation of the settings reports it together with all other faults
        return set()
