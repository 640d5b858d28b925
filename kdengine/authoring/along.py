"""What the templates need to know of a method that is taken along."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kdengine._version import __version__
from kdengine.authoring.author import toml_string
from kdengine.authoring.readme import options_table, presets_table
from kdengine.authoring.single_file import SingleFile
from kdengine.methods.distiller import Distiller

__all__ = ["requirement", "values_of_file"]

REGISTER = "kdengine_register"
LOWEST = {"torch": "torch>=2.8", "torchvision": "torchvision>=0.23", "timm": "timm>=1.0.21", "pydantic": "pydantic>=2.10.1"}
"""The oldest versions that kdengine itself works with."""


def values_of_file(file: SingleFile, module: str, entry: str) -> dict[str, str]:
    """The values that the templates in ``file/`` are filled with.

    Args:
        file: the file.
        module: the module of the package.
        entry: the name of its entry point.
    """
    methods = list(file.methods.values())
    facts = [method.describe() for method in methods]
    summary = facts[0]["summary"] or f"The method {entry}."
    source = "; ".join(dict.fromkeys(each["source"].rstrip(".") for each in facts if each["source"]))
    return {
        "summary": "\n\n".join(each["summary"] or f"The method {each['name']}." for each in facts),
        "docstring": _docstring(summary),
        "title": ", ".join(method.name for method in methods),
        "source": f"{source}." if source else "not named yet; give it here and in the docstring.",
        "imports": _imports(file, module),
        "registration": "" if REGISTER in file.hooks else _registration(file),
        "contracts": "".join(_contract(method, alone=len(methods) == 1) for method in methods),
        "selected": entry if len(methods) == 1 else f"{entry}:{methods[0].name}",
        "taps": "\n".join(_taps(methods)),
        "options": "\n\n".join(_options(methods)),
        "api": repr(file.api),
        "description": toml_string(f"{summary.rstrip('.')}, for kdengine"),
        "requires": ", ".join(map(toml_string, [requirement(), *(LOWEST.get(name, name) for name in file.requires[0])])),
    }


def requirement() -> str:
    """The dependency of a plugin on this version of kdengine, or a later one."""
    return f"kdengine>={'.'.join(__version__.split('.')[:2])}"


def _docstring(text: str) -> str:
    """A text as it stands between the quotes of a docstring."""
    escaped = text.replace("\\", "\\\\").replace('"""', "'''")
    return f"{escaped} " if escaped.endswith('"') else escaped


def _imports(file: SingleFile, module: str) -> str:
    """What the package imports from the file: its methods and its hooks, which count where the entry point leads."""
    names = [*file.classes, *file.hooks]
    registers = "" if REGISTER in file.hooks else "\nfrom kdengine import Registrar, hookimpl\n"
    listed = ", ".join(toml_string(name) for name in sorted(file.classes))
    own = f"\nfrom {module}.{file.module_name} import {', '.join(sorted(names))}\n" if names else ""
    return f"{registers}{own}\n__all__ = [{listed}]\n"


def _registration(file: SingleFile) -> str:
    calls = "".join(f"    registry.distiller({name})\n" for name in file.classes)
    return f'\n\n@hookimpl\ndef {REGISTER}(registry: Registrar) -> None:\n    """Offer what the file defines."""\n{calls}'


def _contract(method: type[Distiller], alone: bool) -> str:
    name = "TestContract" if alone else f"Test{method.__name__}"
    return f"\n\nclass {name}(DistillerContract):\n    method = {toml_string(method.name)}\n"


def _taps(methods: Iterable[type[Distiller]]) -> Iterator[str]:
    for method in methods:
        taps = method.describe()["taps"]
        yield f"Taps of `{method.name}`: {', '.join(f'`{tap}`' for tap in taps) or 'none'}."


def _options(methods: list[type[Distiller]]) -> Iterator[str]:
    """The tables of each method; where there are several, under their names."""
    for method in methods:
        title = [f"### {method.name}"] if len(methods) > 1 else []
        tables = [options_table(method), presets_table(method)]
        yield "\n\n".join([*title, *filter(None, tables)])
