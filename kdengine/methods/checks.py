"""Checks that a method's declarations are valid and that the tapped tensors are of the kind it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from kdengine.errors import SettingsError, TapError, TrainingError
from kdengine.methods.pair import Pair
from kdengine.taps import Trace

if TYPE_CHECKING:
    from kdengine.methods.distiller import Distiller

__all__ = ["NEEDS", "TAKES", "check_contract", "check_shapes", "check_unwritten", "views_of"]


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

SEQUENCES = ("taps", "student_taps", "teacher_taps", "needs", "serves")
"""Declarations of several names; a text alone would be read letter by letter."""

READS = ("each-teacher", "all-teachers")
"""How a method may use several teachers."""


def check_contract(distiller: Distiller) -> None:
    """Check ``taps``, ``takes``, ``needs``, ``reads`` and ``serves``.

    Raises:
        SettingsError: one of them has an unknown value.
    """
    texts = {name: getattr(distiller, name) for name in SEQUENCES if isinstance(getattr(distiller, name), str)}
    faults = [f"has {name} = '{text}', but a tuple is needed: {name} = ('{text}',)" for name, text in texts.items()]
    needs = () if "needs" in texts else distiller.needs
    faults += [f"has needs = '{name}', which must be one of: {', '.join(NEEDS)}" for name in needs if name not in NEEDS]
    if distiller.takes not in (None, *TAKES):
        faults.append(f"has takes = '{distiller.takes}', which must be one of: {', '.join(TAKES)}")
    if distiller.reads not in READS:
        faults.append(f"has reads = '{distiller.reads}', which must be one of: {', '.join(READS)}")
    if faults:
        raise SettingsError(f"The method '{distiller.name}' {'; and it '.join(faults)}. This is a bug in the plugin.")


def views_of(distiller: Distiller | type[Distiller]) -> int:
    """How many augmentations of the same images the method needs in a step."""
    return 2 if "views:2" in distiller.needs else 1


def check_unwritten(key: str, student: Iterable[Trace], before: Iterable[Mapping[str, int]]) -> None:
    """Refuse a method that wrote into what other methods, the metrics and the student's own gradients read.

    Args:
        key: id of the method.
        student: what was recorded of the student, for each view.
        before: how often its tensors had been written to before the method was called.

    Raises:
        TrainingError: the method modified a tensor of the student in place.
    """
    for trace, counts in zip(student, before, strict=True):
        after = trace.versions()
        changed = [name for name, count in counts.items() if after[name] != count]
        if changed:
            raise TrainingError(
                f"{key}: forward modified '{changed[0]}' of the student in place. Modify a copy instead, tensor.clone()."
            )


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
