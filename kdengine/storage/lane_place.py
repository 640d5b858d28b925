"""Where a run folder lies in the folder of a comparison."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kdengine.storage.names import NOTE

__all__ = ["LanePlace"]


@dataclass(frozen=True)
class LanePlace:
    """The place of a lane: ``trial-1/LANE``, or ``trial-1/STUDENT/LANE`` where several students are compared.

    Attributes:
        comparison: the folder of the comparison.
        trial: name of the folder of the trial.
        student: label of the student; empty if there is only one.
    """

    comparison: Path
    trial: str
    student: str = ""

    @classmethod
    def of(cls, folder: Path) -> LanePlace | None:
        """The place of a run folder; None if it is no lane of a comparison."""
        above, *further = list(folder.resolve().parents) or [folder]
        if further and (further[0] / NOTE).is_file():
            return cls(further[0], above.name)
        if len(further) > 1 and further[0].name.startswith("trial-") and (further[1] / NOTE).is_file():
            return cls(further[1], further[0].name, above.name)
        return None
