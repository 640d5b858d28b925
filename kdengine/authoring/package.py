"""A new plugin as a package that installs and passes its tests as it stands."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from importlib.resources import files
from pathlib import Path
from string import Template

from kdengine._version import API
from kdengine.authoring.along import requirement, values_of_file
from kdengine.authoring.author import Author, toml_string
from kdengine.authoring.kinds import PluginKind
from kdengine.authoring.names import PREFIX, class_name_of, module_name_of
from kdengine.authoring.single_file import SingleFile
from kdengine.errors import StorageError

__all__ = ["NewPlugin", "write_package"]

FILES = {
    "pyproject.toml": "every/pyproject.toml",
    "README.md": "{folder}/README.md",
    "LICENSE": "every/LICENSE",
    ".gitignore": "every/gitignore",
    ".github/workflows/test.yml": "every/test.yml",
    "src/{module}/__init__.py": "{folder}/module.py",
    "tests/test_contract.py": "{folder}/test_contract.py",
}
"""The files of a package, each with its template."""
ALONG = "file"
"""The folder of templates for a method that is taken along."""


@dataclass(frozen=True)
class NewPlugin:
    """A plugin that is to be written.

    Attributes:
        name: its name; the package is ``kdplugin-NAME``.
        kind: what it is.
        author: who writes it.
        file: the method that it takes along, if any; else it has an example.
    """

    name: str
    kind: PluginKind
    author: Author
    file: SingleFile | None = None

    @property
    def package(self) -> str:
        """Name of the distribution."""
        return f"{PREFIX}{self.name}"

    @property
    def module(self) -> str:
        """Name of its module."""
        return module_name_of(self.name)

    @property
    def entry(self) -> str:
        """The name of its entry point, by which runs select it: that of the method, where there is only one."""
        methods = list(self.file.methods) if self.file else []
        return methods[0] if len(methods) == 1 else self.name

    def contents(self) -> dict[str, bytes]:
        """The files of the package, by their paths in it."""
        folder = ALONG if self.file else self.kind.name
        values = {**self._common(), **(values_of_file(self.file, self.module, self.entry) if self.file else self._example())}
        contents = {
            path.format(module=self.module): Template(_template(form.format(folder=folder))).substitute(values).encode()
            for path, form in FILES.items()
        }
        contents[f"src/{self.module}/py.typed"] = b""
        if self.file:
            contents[f"src/{self.module}/{self.file.module_name}.py"] = self.file.content
        return contents

    def _common(self) -> dict[str, str]:
        """What the templates of every kind are filled with."""
        return {
            "package": self.package,
            "module": self.module,
            "entry": self.entry,
            "name": self.name,
            "api": str(API),
            "author": self.author.name,
            "author_table": self.author.to_toml(),
            "year": str(date.today().year),
            "description": toml_string(self.kind.description),
            "requires": ", ".join(map(toml_string, [requirement(), *self.kind.requires])),
        }

    def _example(self) -> dict[str, str]:
        """What the templates of an example are filled with beside that."""
        text = _template(f"{self.kind.name}/module.py") + _template(f"{self.kind.name}/test_contract.py")
        return {"class_name": class_name_of(self.name, self.kind.name, text)}


def write_package(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write the files of a package; the folder appears when all of them are written.

    Args:
        folder: the folder of the package.
        contents: the files, by their paths in it.

    Raises:
        StorageError: the folder exists, which is then left alone, or it cannot be written.
    """
    if folder.exists() or folder.is_symlink():
        raise StorageError(f"'{folder}' exists, and nothing is ever overwritten. Name another folder with --out.")
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.writing")
    try:
        for path, content in contents.items():
            file = temporary / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        temporary.rename(folder)
    except (OSError, ValueError) as error:  # a null byte in the name of a folder is a ValueError
        reason = getattr(error, "strerror", None) or error
        raise StorageError(f"'{folder}' cannot be written: {reason}. Name another folder with --out.") from error
    finally:
        with suppress(OSError):
            shutil.rmtree(temporary)


def _template(name: str) -> str:
    """The text of a template, such as ``method/README.md``."""
    return (files("kdengine.authoring") / "templates" / f"{name}.tmpl").read_text(encoding="utf-8")
