"""The grammar of taps: ``PATH[:in|:out][#CALL]``, and ``STUDENT=TEACHER`` where the two sides differ.

PATH is a module path (negative indices and globs allowed: ``layer4.-1``, ``blocks.*``), a module path ending in a
functional activation (``layer1.0.relu()``), or a canonical name that works on any network: ``stem``, ``stage2``,
``stage-1``, ``stages``, ``stage2.pre``, ``stages.pre``, ``embedding``, ``embedding.map``, ``logits``. A canonical name takes
neither a side nor a call; if a module has the same name, ``stem:out`` means the module.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from kdengine.config.validation import shown
from kdengine.errors import TapError

__all__ = ["Tap", "parse", "split_pair"]

GRAMMAR = "PATH[:in|:out][#CALL], for example 'stage2', 'layer2.0.conv1:in' or 'relu#1'"
_TAP = re.compile(r"(?P<path>[^\s:#=]{1,1000})(?::(?P<side>in|out))?(?:#(?P<call>[0-9]{1,9}))?")
_CANONICAL = re.compile(r"stem|stages(?:\.pre)?|embedding(?:\.map)?|logits|stage(?P<number>-?[1-9][0-9]{0,8})(?P<pre>\.pre)?")


@dataclass(frozen=True)
class Tap:
    """One parsed tap.

    Attributes:
        path: module path, glob or canonical name.
        side: ``"out"`` (the module's output), ``"in"`` (its first tensor argument), or None if not given.
        call: which call of a module that runs several times per forward, from 0, or None if not given.
    """

    path: str
    side: str | None = None
    call: int | None = None

    def __str__(self) -> str:
        side = f":{self.side}" if self.side else ""
        return self.path + side + ("" if self.call is None else f"#{self.call}")

    @property
    def canonical(self) -> re.Match[str] | None:
        """The match of a canonical name (groups ``number`` and ``pre``), or None for a module path."""
        return _CANONICAL.fullmatch(self.path) if self.side is None and self.call is None else None


def parse(text: str) -> Tap:
    """Parse one side of a tap.

    Raises:
        TapError: the text does not follow the grammar.
    """
    match = _TAP.fullmatch(text.strip())
    if match is None:
        raise TapError(f"{shown(text)} is not a tap. A tap is written {GRAMMAR}.")
    call = match["call"]
    return Tap(match["path"], match["side"], None if call is None else int(call))


def split_pair(text: str) -> tuple[str, str]:
    """Split ``"student=teacher"``; without ``=``, both sides use the same tap.

    Raises:
        TapError: there is more than one ``=``, or a side is empty.
    """
    sides = [side.strip() for side in text.split("=")]
    if len(sides) > 2 or not all(sides):
        raise TapError(f"'{text}' is not a tap. Write one tap for both networks, or 'STUDENT=TEACHER'.")
    return sides[0], sides[-1]
