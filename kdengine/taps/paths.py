"""From the paths that a user writes, with globs and negative indices, to the paths of modules."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

__all__ = ["expand", "is_pattern"]


def is_pattern(path: str) -> bool:
    """Whether a path has globs in it, so that it may mean several modules."""
    return re.search(r"[*?\[]", path) is not None


def expand(path: str, known: Iterable[str]) -> list[str]:
    """The known paths meant, in their order: the path itself, or what matches it part by part.

    A negative index counts from the end of the numbered children or, where none is numbered, of all children.

    >>> expand("layer*.-1", ["layer1", "layer1.0", "layer1.1", "layer2", "layer2.0", "layer2.0.conv"])
    ['layer1.1', 'layer2.0']
    """
    known = list(dict.fromkeys(known))
    if path in known:
        return [path]
    found = [""]
    for part in path.split("."):
        found = [prefix + child for prefix in found for child in _matches(part, _children(prefix, known))]
        found = [f"{name}." for name in found]
    return [name.rstrip(".") for name in found]


def _children(prefix: str, known: Sequence[str]) -> list[str]:
    tails = (name[len(prefix) :] for name in known if name.startswith(prefix))
    return [tail for tail in tails if "." not in tail]


def _matches(part: str, children: list[str]) -> list[str]:
    if re.fullmatch(r"-[0-9]{1,9}", part):
        listed = sorted((child for child in children if child.isdecimal()), key=int) or children
        return listed[int(part) :][:1] if 0 < -int(part) <= len(listed) else []
    # functions are no modules: a glob means them only if it says so
    return [child for child in children if fnmatchcase(child, part) and child.endswith("()") == part.endswith("()")]
