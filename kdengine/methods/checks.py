"""Checks that a method's declarations are valid and that the tapped tensors are of the kind it takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from kdengine.errors import SettingsError, TapError
from kdengine.methods.pair import Pair

if TYPE_CHECKING:
    from kdengine.methods.distiller import Distiller

__all__ = ["NEEDS", "TAKES", "check_contract", "check_shapes", "views_of"]


class Kind(NamedTuple):
    """A kind of tensor: a test for it, its description, and a tap that returns it on any network."""

    accepts: Callable[[Tensor, Tensor], bool]
    words: str
    example: str


TAKES: Mapping[str, Kind] = {
    "maps": Kind(lambda s, t: s.ndim == t.ndim == 4, "maps [B, C, H, W]", "stage2"),
    "vectors": Kind(lambda s, t: s.ndim == t.ndim == 2, "vectors [B, D]", "embedding"),
    "logits": Kind(lambda s, t: s.ndim == 2 and s.shape == t.shape, "logits [B, K] of the same classes", "logits"),
    "features": Kind(
        lambda s, t: 2 <= s.ndim <= 4 and 2 <= t.ndim <= 4,
        "vectors [B, D], tokens [B, N, D] or maps [B, D, H, W]",
        "embedding",
    ),
}
"""The kinds of tensors that a method may require at its taps, on both sides."""

DENSE = Kind(
    lambda s, t: s.ndim == t.ndim == 4 and s.shape[1] == t.shape[1], "logits [B, K, H, W] of the same classes", "logits"
)
"""What ``logits`` are where the task has a class for each pixel."""

NEEDS = ("index", "labels", "hard_labels", "views:2", "input_gradients")
"""What a method may request of a step beyond images, logits and taps."""

READS = ("each-teacher", "all-teachers")
"""How a method may use several teachers."""


def check_contract(distiller: Distiller) -> None:
    """Check ``takes``, ``needs`` and ``reads``.

    Raises:
        SettingsError: one of them has an unknown value.
    """
    faults = [
        f"has needs = '{name}', which must be one of: {', '.join(NEEDS)}" for name in distiller.needs if name not in NEEDS
    ]
    if distiller.takes not in (None, *TAKES):
        faults.append(f"has takes = '{distiller.takes}', which must be one of: {', '.join(TAKES)}")
    if distiller.reads not in READS:
        faults.append(f"has reads = '{distiller.reads}', which must be one of: {', '.join(READS)}")
    if faults:
        raise SettingsError(f"The method '{distiller.name}' {'; and it '.join(faults)}. This is a bug in the plugin.")


def views_of(distiller: Distiller | type[Distiller]) -> int:
    """How many augmentations of the same images the method needs in a step."""
    return 2 if "views:2" in distiller.needs else 1


def check_shapes(distiller: Distiller, pair: Pair) -> None:
    """Check that the taps are of the kind that the method takes, before it builds connectors.

    Raises:
        TapError: the kind is wrong; the message has both shapes and a tap that works.
    """
    if distiller.takes is None:
        return
    kind = DENSE if distiller.takes == "logits" and pair.outputs == "pixels" else TAKES[distiller.takes]
    for tap in pair.pairs:
        if not kind.accepts(tap.student, tap.teacher):
            raise TapError(
                f"{distiller.name}: at '{tap.name}' the student has {list(tap.student.shape)} and the teacher "
                f"{list(tap.teacher.shape)}, but the method needs {kind.words} on both sides. Choose another tap, such as "
                f"{distiller.name}.taps='{kind.example}'."
            )
