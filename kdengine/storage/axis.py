"""The axes of a sweep, as recorded in its folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Axis", "label_of_cell"]


@dataclass(frozen=True)
class Axis:
    """One option and the values to try.

    Attributes:
        name: ``st.alpha`` or ``train.lr``.
        values: as text, as the user gave them.
    """

    name: str
    values: tuple[str, ...]

    def label(self, value: str) -> str:
        """Label of a cell along this axis: ``alpha=0.1``."""
        return f"{self.name.rpartition('.')[2]}={value}"


def label_of_cell(axes: Sequence[Axis], values: Sequence[str]) -> str:
    """Label of the lane for a combination: ``alpha=0.1,temperature=4``."""
    return ",".join(axis.label(value) for axis, value in zip(axes, values, strict=True)).replace("/", "_")
