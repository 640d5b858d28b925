"""Specs, the names of networks and data on the command line: ``[SCHEME:]NAME[@KEY=VALUE...]``."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdengine.config.values import merge, parse_assignment
from kdengine.errors import KDError, cause, did_you_mean

__all__ = ["Spec", "import_factory"]


@dataclass(frozen=True)
class Spec:
    """A parsed spec: ``timm:resnet50@drop_rate=0.1`` has scheme ``timm``, name ``resnet50`` and one option."""

    scheme: str
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str, error: type[KDError]) -> Spec:
        """Parse a spec.

        A name may be a path with ``@`` in it: after the scheme, the longest path that exists is the name. Elsewhere, ``@@``
        stands for ``@``.

        Raises:
            error: the name is empty, or an option is not of the form KEY=VALUE.
        """
        text = text.strip()
        scheme, colon, rest = text.partition(":")
        if "@" in scheme or not colon:
            scheme, colon, rest = "", "", text
        path = _longest_path(rest) if colon else ""
        name, *assignments = _split_at_signs(rest[len(path) :])
        name = path + name
        if not name or (colon and not scheme):
            raise error(f"'{text}' names nothing. Write [SCHEME:]NAME[@KEY=VALUE...].")
        options: dict[str, Any] = {}
        for assignment in assignments:
            try:
                options = merge(options, parse_assignment(assignment))
            except KDError:
                raise error(
                    f"'{text}': '{assignment}' is not KEY=VALUE. Write, for example, @drop_rate=0.1; and @@ for an @ that "
                    "belongs to a name."
                ) from None
        return cls(scheme, name, options)


def _longest_path(text: str) -> str:
    """The longest existing path with ``@`` in it that the text starts with and that ``@`` or nothing follows; or empty."""
    ends = [*(match.start() for match in re.finditer("@", text)), len(text)]
    paths = (text[:end] for end in reversed(ends) if "@" in text[:end])
    return next((path for path in paths if os.path.exists(os.path.expanduser(path))), "")


def _split_at_signs(text: str) -> list[str]:
    """Split text at each ``@``; ``@@`` stands for one that belongs to a part."""
    parts = [""]
    for piece in re.split("(@@|@)", text):
        if piece == "@":
            parts.append("")
        else:
            parts[-1] += "@" if piece == "@@" else piece
    return parts


def import_factory(name: str, error: type[KDError]) -> Callable[..., Any]:
    """The callable that ``package.module:factory`` names; modules in the working directory are found too.

    Raises:
        error: the module cannot be imported, or has no such callable.
    """
    module_name, _, attribute = name.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name) if module_name and attribute else None
    except (Exception, SystemExit) as problem:  # the user's module can fail in any way
        raise error(
            f"'{module_name}' cannot be imported: {cause(problem).rstrip('.')}.{_fix(module_name, problem)}"
        ) from problem
    finally:
        sys.path.remove(here)
    factory: Callable[..., Any] | None = getattr(module, attribute, None)
    if not callable(factory):
        near = did_you_mean(attribute, vars(module)) if module else ""
        raise error(f"'python:{name}' is not a callable. {near or 'Write python:package.module:factory.'}")
    return factory


def _fix(module: str, problem: BaseException) -> str:
    """What to write in place of a path, or where a module must lie; empty for a module that was found and fails."""
    if module.endswith(".py") or os.sep in module:
        return f" Write the name of a module, not a path: python:{Path(module).stem}:factory."
    if isinstance(problem, ModuleNotFoundError) and problem.name == module.partition(".")[0]:
        return " Modules are found in the working directory and on PYTHONPATH."
    return ""
