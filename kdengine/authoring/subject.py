"""What is checked: the plugin in a file, in the folder of a package that need not be installed, or an installed one."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from importlib_metadata import Distribution, distributions

from kdengine.authoring.package_facts import PackageFacts
from kdengine.errors import PluginError, did_you_mean
from kdengine.plugins.discovery import Plugin, canonical, discover

__all__ = ["Subject", "opened"]


@dataclass(frozen=True)
class Subject:
    """What is checked.

    Attributes:
        title: what it is, for people.
        plugins: one for each entry point, or for the file; not loaded yet.
        file: the file, if it is one.
        package: what the package says of itself; None for a file.
    """

    title: str
    plugins: tuple[Plugin, ...]
    file: Path | None = None
    package: PackageFacts | None = None


@contextmanager
def opened(text: str) -> Iterator[Subject]:
    """What a path or a name stands for; inside, the modules of a package can be imported from its folder.

    Args:
        text: a Python file, the folder of a package, or the name of an installed plugin or distribution.

    Raises:
        PluginError: there is no such thing.
    """
    path = Path(os.path.expanduser(text))
    if os.path.isfile(path):
        yield Subject(text, (Plugin(path.stem, text, "", str(path.resolve())),), file=path)
    elif os.path.isdir(path) and (os.sep in text or (path / "pyproject.toml").is_file() or text in (".", "..")):
        package = PackageFacts.of_folder(path.resolve())
        plugins = tuple(Plugin(name, package.name, package.version, target) for name, target in package.entries.items())
        with _importable(path.resolve(), plugins):
            yield Subject(f"{package.name} {package.version} in {text}", plugins, package=package)
    else:
        yield _installed(text)


def _installed(name: str) -> Subject:
    found = list(discover())
    by_name = [plugin for plugin in found if plugin.name == name]
    plugins = by_name or [plugin for plugin in found if canonical(plugin.distribution) == canonical(name)]
    if not plugins:
        names = {known for plugin in found for known in (plugin.name, plugin.distribution)}
        raise PluginError(
            f"There is no file, folder or installed plugin '{name}'. {did_you_mean(name, names)} Name a Python file such as "
            "./my_kd.py, the folder of a package, or a plugin that 'kdengine plugins' lists.".replace("  ", " ")
        )
    owner = plugins[0].distribution
    package = PackageFacts.of_distribution(_distribution(owner))
    return Subject(
        f"{plugins[0].title}, installed", tuple(each for each in plugins if each.distribution == owner), package=package
    )


def _distribution(name: str) -> Distribution:
    return next(found for found in distributions() if found.name and canonical(found.name) == canonical(name))


@contextmanager
def _importable(folder: Path, plugins: tuple[Plugin, ...]) -> Iterator[None]:
    """Inside, modules of the package are imported from its folder, whether or not it is installed; afterwards, forgotten."""
    tops = {plugin.target.partition(":")[0].partition(".")[0] for plugin in plugins}
    before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in tops}
    path = list(sys.path)
    for name in before:
        del sys.modules[name]
    sys.path[:0] = [str(place) for place in (folder / "src", folder) if place.is_dir()]
    try:
        yield
    finally:
        sys.path[:] = path
        for name in [name for name in sys.modules if name.partition(".")[0] in tops]:
            del sys.modules[name]
        sys.modules.update(before)
