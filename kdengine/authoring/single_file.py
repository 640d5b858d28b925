"""A method in a single file that is to become a package."""

from __future__ import annotations

import ast
import keyword
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from kdengine._version import API
from kdengine.errors import PluginError, missing
from kdengine.methods.distiller import Distiller
from kdengine.plugins.discovery import Plugin
from kdengine.plugins.loader import PluginLoader, hooks_in, make_manager

__all__ = ["SingleFile"]

GUIDE = "A method is a class with a name and forward(self, step), derived from kdengine.Distiller."


@dataclass(frozen=True)
class SingleFile:
    """A Python file with one method or several.

    Attributes:
        path: the file.
        content: its bytes.
        plugin: what it offers.
    """

    path: Path
    content: bytes
    plugin: Plugin

    @classmethod
    def read(cls, path: Path) -> SingleFile:
        """Read and import a file.

        Raises:
            PluginError: it does not exist, fails, holds no method, or imports a file beside it.
        """
        if not os.path.isfile(path):  # unlike Path.is_file, false for text that cannot be a path
            raise PluginError(f"{missing('file', path)} --from takes a Python file with a method, such as ./my_kd.py.")
        try:
            plugin = PluginLoader(make_manager()).load_file(path)
        except PluginError as error:
            raise PluginError(
                f"{error} Fix the file first: 'kdengine plugins check {path}' says whether it works. {GUIDE}"
            ) from error
        if not plugin.methods:
            raise PluginError(
                f"'{path}' has no method: it offers {_offers(plugin)}. --from takes a method along. {GUIDE} For another kind "
                "of plugin, leave out --from and choose it with --kind."
            )
        file = cls(path, path.read_bytes(), plugin)
        file._check_alone()
        return file

    @property
    def methods(self) -> Mapping[str, type[Distiller]]:
        """Its methods, by name."""
        return self.plugin.methods

    @property
    def module_name(self) -> str:
        """What its module is called within the package: the name of the file, or ``method`` if that is no name of one."""
        stem = self.path.stem
        return stem if stem.isidentifier() and not keyword.iskeyword(stem) and not stem.startswith("__") else "method"

    @property
    def hooks(self) -> list[str]:
        """The hooks that it implements."""
        return hooks_in(self.plugin.module)

    @property
    def api(self) -> Any:
        """The version of the contract that it is written for; this one if it does not say so."""
        return getattr(self.plugin.module, "KDENGINE_API", API)

    @property
    def classes(self) -> dict[str, type[Distiller]]:
        """The methods that stand in it under a name, by that name."""
        named = {kind: name for name, kind in vars(self.plugin.module).items() if isinstance(kind, type)}
        return {named[kind]: kind for kind in self.methods.values() if kind in named}

    @cached_property
    def requires(self) -> tuple[list[str], list[str]]:
        """The distributions that it imports, beside kdengine and Python's own, and the modules that belong to none."""
        known = metadata.packages_distributions()
        distributions, unknown = set(), []
        for name in sorted(set(self._imported()) - set(sys.stdlib_module_names) - {"kdengine"}):
            found = _distribution_of(name, known)
            if found is None:
                unknown.append(name)
            else:
                distributions.add(found)
        return sorted(distributions), unknown

    def notes(self) -> Iterator[str]:
        """What its author has to write before the contract is satisfied."""
        for kind in self.methods.values():
            facts = kind.describe()
            undocumented = [name for name, option in facts["options"].items() if not option["help"]]
            if not facts["source"]:
                yield f"the docstring of {kind.__name__} has no 'Source: ...', which the contract asks for"
            if not facts["summary"]:
                yield f"{kind.__name__} has no docstring; its first line says what the method does"
            if undocumented:
                yield f"{kind.__name__} has options without a string under them that explains them: {', '.join(undocumented)}"
        for name in self.requires[1]:
            yield f"the file imports {name}, which belongs to no installed distribution: add it to the dependencies yourself"

    def _imported(self) -> Iterator[str]:
        """The first part of the name of every module that it imports."""
        for node in ast.walk(ast.parse(self.content)):
            if isinstance(node, ast.Import):
                yield from (alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield node.module.partition(".")[0]

    def _check_alone(self) -> None:
        folder = self.path.resolve().parent
        for name in sorted(set(self._imported())):
            if any(place.exists() for place in (folder / f"{name}.py", folder / name / "__init__.py")):
                raise PluginError(
                    f"'{self.path}' imports '{name}', which lies beside it, and --from takes one file along. Put all of it "
                    "into the file, or leave out --from and move both into the package."
                )


def _offers(plugin: Plugin) -> str:
    kinds = [
        name
        for name in ("compositions", "adapters", "models", "datasets", "tasks", "launchers", "recipes")
        if getattr(plugin, name)
    ]
    return ", ".join(kinds or hooks_in(plugin.module))


def _distribution_of(module: str, known: Mapping[str, list[str]]) -> str | None:
    """The distribution that a module belongs to; one that is installed editable is known by its name alone."""
    if module in known:
        return known[module][0]
    try:
        found: str = metadata.distribution(module).name
    except metadata.PackageNotFoundError:
        return None
    return found
