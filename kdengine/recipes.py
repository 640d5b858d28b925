"""Recipes: published protocols, and files of settings, as the values that a run begins from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdengine.settings import read_toml

if TYPE_CHECKING:
    from kdengine.distiller import Distiller
    from kdengine.registry import Registry

__all__ = ["recipe_values"]


def recipe_values(recipe: str, methods: Sequence[str | Distiller], registry: Registry) -> dict[str, Any]:
    """The settings of a recipe or a TOML file; its options for methods that the run does not use are left out.

    Args:
        recipe: name of a recipe, or path of a file that ends in ``.toml``.
        methods: the methods of the run, named or made by the caller (who then gave them their options); the recipe's own
            where there are none.
        registry: finds recipes and methods.

    Raises:
        PluginError: there is no such recipe.
        SettingsError: the file is missing or is no TOML.
    """
    values = read_toml(Path(recipe) if recipe.endswith(".toml") else registry.recipe(recipe))
    options = values.get("options")
    chosen = methods or values.get("methods", ())
    if not isinstance(options, Mapping) or not isinstance(chosen, Sequence):
        return values  # the settings will say what is wrong with them
    methods_used = [method for text in chosen if isinstance(text, str) for method in registry.methods(text)]
    used = {name for method in methods_used for name in (method.name, *method.companions)}
    return {**values, "options": {key: value for key, value in options.items() if _method_of(key, used)}}


def _method_of(key: str, used: set[str]) -> bool:
    """Whether the options under a key, such as ``fitnet`` or ``fitnet-2``, belong to a method in use."""
    name, _, number = key.rpartition("-")
    return key in used or (number.isdigit() and name in used)
