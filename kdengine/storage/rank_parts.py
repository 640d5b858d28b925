"""The states of several processes as one: that of the first, and of each other what differs from it.

Most of what processes that train together hold is the same in all of them, weights above all. What is not, such as random
states and gradients that still add up, is found by comparing, so that nobody has to know where it lies.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from kdengine.storage.contents import contents

__all__ = ["digests", "own_part", "with_part"]

Path = tuple[Any, ...]
"""Keys of mappings and positions in lists that lead to a leaf."""


def digests(state: Any) -> dict[Path, bytes]:
    """Path -> digest, of everything in a state of nested mappings and lists: tensors and plain data."""
    return {path: _digest(leaf) for path, leaf in _leaves(state)}


def own_part(state: Any, first: Mapping[Path, bytes]) -> dict[str, Any]:
    """What of a state is not as in the first process.

    Args:
        state: of this process.
        first: :func:`digests` of the state of the first one.
    """
    mine = digests(state)
    if mine.keys() != first.keys():
        return {"whole": state}
    return {"leaves": [(path, leaf) for path, leaf in _leaves(state) if mine[path] != first[path]]}


def with_part(state: Any, part: Mapping[str, Any]) -> Any:
    """The state of a process, made in place of that of the first one.

    Args:
        state: of the first process.
        part: what :func:`own_part` returned.
    """
    if "whole" in part:
        return part["whole"]
    for path, leaf in part["leaves"]:
        *way, last = path
        place = state
        for key in way:
            place = place[key]
        place[last] = leaf
    return state


def _leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Everything in nested mappings and lists, with its path."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, (*path, key))
    elif isinstance(value, list) and any(isinstance(inner, Mapping | list | Tensor) for inner in value):
        for position, inner in enumerate(value):
            yield from _leaves(inner, (*path, position))
    else:
        yield path, value


def _digest(leaf: Any) -> bytes:
    summed = hashlib.blake2b(digest_size=16)
    _add(summed, leaf)
    return summed.digest()


def _add(summed: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        summed.update(f"{value.dtype} {tuple(value.shape)}".encode())
        summed.update(contents(value))
    elif isinstance(value, tuple | list):
        summed.update(f"{len(value)} in a {type(value).__name__}".encode())
        for inner in value:
            _add(summed, inner)
    else:
        summed.update(f"{type(value).__name__} {value!r};".encode())
