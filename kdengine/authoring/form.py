"""What others would miss in a plugin that works: its README, its metadata, the version of the contract."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from kdengine._version import API
from kdengine.authoring.along import requirement
from kdengine.authoring.package_facts import PackageFacts
from kdengine.authoring.readme import missing_from
from kdengine.plugins.discovery import Plugin

__all__ = ["Advice", "advice_on_package", "advice_on_plugin"]

Advice = tuple[str, str]
"""What should hold, and what to do; empty if it holds."""


def advice_on_plugin(plugin: Plugin, package: PackageFacts | None) -> Iterator[Advice]:
    """What should hold of a plugin.

    Args:
        plugin: it is loaded.
        package: what ships it; None for a file.
    """
    yield "declares the version of the contract", _api(plugin)
    if package:
        yield "its entry point has the name of its method", _entry(plugin)


def advice_on_package(package: PackageFacts, plugins: Sequence[Plugin]) -> Iterator[Advice]:
    """What should hold of a package.

    Args:
        package: what it says of itself.
        plugins: those of its plugins that could be loaded.
    """
    yield "requires kdengine from a version on", _requirement(package.requires)
    yield "has a description", "" if package.description else 'add description = "..." to [project]'
    yield "has a licence", _licence(package)
    yield "has a README", "" if package.readme.strip() else 'add README.md, and readme = "README.md" to [project]'
    if package.folder:
        yield "has tests", _tests(package.folder)
        yield "ships its types", _typed(package.folder, plugins)
    if package.readme.strip():
        for method in (method for plugin in plugins for method in plugin.methods.values()):
            missing = list(missing_from(package.readme, method))
            yield f"describes {method.name} in its README", f"it lacks {'; '.join(missing)}" if missing else ""


def _api(plugin: Plugin) -> str:
    declared = getattr(plugin.module, "KDENGINE_API", None)
    return (
        f"write KDENGINE_API = {API} in its module, so that another kdengine refuses it with a reason"
        if declared is None
        else ""
    )


def _entry(plugin: Plugin) -> str:
    if len(plugin.methods) != 1 or plugin.name in plugin.methods:
        return ""
    (method,) = plugin.methods
    return f"name it '{method}' instead of '{plugin.name}', so that only it is imported when a run selects the method"


def _requirement(requires: Sequence[str]) -> str:
    own = [text for text in requires if re.match(r"kdengine\b(?![-_.])", text)]
    if any(re.search(r"[=~>]=|>", text) for text in own):
        return ""
    return f"add '{requirement()}' to dependencies" if not own else f"write '{requirement()}' in place of '{own[0]}'"


def _licence(package: PackageFacts) -> str:
    if not package.licence:
        return 'add license = "Apache-2.0", or another one, to [project]'
    has_text = package.folder is None or any(package.folder.glob("LICEN[CS]E*"))
    return "" if has_text else f"add the text of {package.licence} as LICENSE"


def _tests(folder: Path) -> str:
    found = any((folder / "tests").glob("test_*.py"))
    return "" if found else "add tests/test_contract.py with a class from kdengine.testing"


def _typed(folder: Path, plugins: Sequence[Plugin]) -> str:
    names = {plugin.target.partition(":")[0].partition(".")[0] for plugin in plugins}
    packages = [place for name in names for place in (folder / "src" / name, folder / name) if place.is_dir()]
    typed = all((place / "py.typed").is_file() for place in packages)
    return "" if typed else "add an empty py.typed beside __init__.py"
