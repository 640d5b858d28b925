"""Expands the paths that users write, with globs and negative indices, to module paths."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

__all__ = ["expand", "is_pattern"]


def is_pattern(path: str) -> bool:
    """Whether a path contains a glob, so that it may match several modules."""
    return re.search(r"[*?\[]", path) is not None


def expand(path: str, known: Iterable[str]) -> list[str]:
    """The known paths that a path matches, in order: the path itself, or those that match it part by part.

    A negative index counts from the end of the numbered children or, if there are none, of all children.

    >>> expand("layer*.-1", ["layer1", "layer1.0", "layer1.1", "layer2", "layer2.0", "layer2.0.conv"])
    ['layer1.1', 'layer2.0']
    """
    known = list(dict.fromkeys(known))
    if path in known:
        return [path]
    prefixes = [""]
    for part in path.split("."):
        prefixes = [f"{prefix}{child}." for prefix in prefixes for child in _matches(part, _children(prefix, known))]
    return [prefix.rstrip(".") for prefix in prefixes]


def _children(prefix: str, known: Sequence[str]) -> list[str]:
    tails = (name[len(prefix) :] for name in known if name.startswith(prefix))
    return [tail for tail in tails if "." not in tail]


def _matches(part: str, children: list[str]) -> list[str]:
    if re.fullmatch(r"-[0-9]{1,9}", part):
        listed = sorted((child for child in children if child.isdecimal()), key=int) or children
        return listed[int(part) :][:1] if 0 < -int(part) <= len(listed) else []
    # functions are not modules: a glob matches them only if it ends in "()"
    return [child for child in children if fnmatchcase(child, part) and child.endswith("()") == part.endswith("()")]
