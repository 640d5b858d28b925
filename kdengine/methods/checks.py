"""Whether what the taps give is what a method can work with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from kdengine.errors import SettingsError, TapError
from kdengine.methods.step import Pair

if TYPE_CHECKING:
    from kdengine.methods.distiller import Distiller

__all__ = ["NEEDS", "TAKES", "check_contract", "check_shapes"]


class Kind(NamedTuple):
    """A kind of tensor: the test, what to call it, and a tap that gives it anywhere."""

    fits: Callable[[Tensor, Tensor], bool]
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
"""What a method may say that its taps must give, on both sides."""

NEEDS = ("input_gradients",)
"""What a method may ask a step to carry beyond images, labels, positions, logits and taps."""


def check_contract(distiller: Distiller) -> None:
    """Refuse what the contract does not offer.

    Raises:
        SettingsError: ``takes`` or ``needs`` names nothing.
    """
    faults = [f"needs '{name}', but a step can only carry: {', '.join(NEEDS)}" for name in distiller.needs if name not in NEEDS]
    if distiller.takes not in (None, *TAKES):
        faults.append(f"takes '{distiller.takes}', but taps can only give: {', '.join(TAKES)}")
    if faults:
        raise SettingsError(f"The method '{distiller.name}' {'; and it '.join(faults)}. Its author has to mend this.")


def check_shapes(distiller: Distiller, pair: Pair) -> None:
    """Refuse taps of the wrong kind, before any connector is made for them.

    Raises:
        TapError: with both shapes, and a tap that fits.
    """
    if distiller.takes is None:
        return
    kind = TAKES[distiller.takes]
    for tap in pair.pairs:
        if not kind.fits(tap.student, tap.teacher):
            raise TapError(
                f"{distiller.name}: at '{tap.name}' the student gives {list(tap.student.shape)} and the teacher "
                f"{list(tap.teacher.shape)}, but {kind.words} are needed on both sides. Name another tap, such as "
                f"{distiller.name}.taps='{kind.example}'."
            )
