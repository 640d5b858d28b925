"""The contracts in a package's own tests, which know the options and data that what it offers must be checked with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdengine.authoring.kinds import PluginKind
from kdengine.plugins.discovery import import_file

__all__ = ["contracts_in"]


def contracts_in(folder: Path | None, kind: PluginKind, name: str, offered: Any) -> list[type]:
    """The contracts to check something with: those of the tests in a folder, or one without options.

    Args:
        folder: the folder of a package, if there is one.
        kind: what is offered.
        name: its name.
        offered: the method, task or module itself, so that the package need not be installed.
    """
    own = [] if folder is None else [found for found in _classes(folder, kind) if _is_about(found, kind, name, offered)]
    return [type(found.__name__, (found,), {kind.attribute: offered}) for found in own or [kind.contract_class]]


def _classes(folder: Path, kind: PluginKind) -> Iterator[type]:
    """The subclasses of the contract that the tests define; of files that cannot be imported, none."""
    for file in sorted((folder / "tests").glob("test_*.py")):
        try:
            module = import_file(file)
        except KeyboardInterrupt:
            raise
        except BaseException:  # running the tests says what is wrong with them
            continue
        for found in vars(module).values():
            if isinstance(found, type) and issubclass(found, kind.contract_class) and found.__module__ == module.__name__:
                yield found


def _is_about(contract: type, kind: PluginKind, name: str, offered: Any) -> bool:
    given = getattr(contract, kind.attribute, None)
    return given is offered or given == name
