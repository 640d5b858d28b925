"""Specs, the names of networks and data on the command line: ``[SCHEME:]NAME[@KEY=VALUE...]``."""

from __future__ import annotations

import importlib
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

        Raises:
            error: the name is empty, or an option is not of the form KEY=VALUE.
        """
        head, *assignments = text.strip().split("@")
        scheme, colon, name = head.partition(":")
        if not colon:
            scheme, name = "", head
        if not name or (colon and not scheme):
            raise error(f"'{text}' names nothing. Write [SCHEME:]NAME[@KEY=VALUE...].")
        options: dict[str, Any] = {}
        for assignment in assignments:
            try:
                options = merge(options, parse_assignment(assignment))
            except KDError:
                raise error(f"'{text}': '{assignment}' is not KEY=VALUE. Write, for example, @drop_rate=0.1.") from None
        return cls(scheme, name, options)


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
        raise error(f"'{module_name}' cannot be imported: {cause(problem).rstrip('.')}.") from problem
    finally:
        sys.path.remove(here)
    factory: Callable[..., Any] | None = getattr(module, attribute, None)
    if not callable(factory):
        near = did_you_mean(attribute, vars(module)) if module else ""
        raise error(f"'python:{name}' is not a callable. {near or 'Write python:package.module:factory.'}")
    return factory
