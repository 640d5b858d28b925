"""``comparison.json``: what a comparison consists of, from which it can be resumed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdengine.config.settings import Settings
from kdengine.config.trust import check_trusted
from kdengine.errors import SettingsError, StorageError, cause
from kdengine.plugins.registry import Registry
from kdengine.runs.lane_specs import LaneSpec, noted
from kdengine.runs.students import StudentSpec
from kdengine.storage.names import NOTE
from kdengine.storage.reading import read_json
from kdengine.storage.writing import write_json

__all__ = ["ComparisonNote"]


@dataclass(frozen=True)
class ComparisonNote:
    """The content of the file.

    Attributes:
        lanes: the lanes.
        settings: shared by all lanes.
        trials: number of repetitions.
        at_once: number of lanes to train side by side, if it was given.
        students: the students; if there are several, each lane names its own, and the file lists them.
        more: further entries, such as the axes of a sweep.
    """

    lanes: Sequence[LaneSpec]
    settings: Settings
    trials: int = 1
    at_once: int | None = None
    students: Sequence[StudentSpec] = ()
    more: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path, trust: bool) -> ComparisonNote:
        """Read the file in the folder of a comparison.

        Args:
            folder: the folder.
            trust: whether the file may name third-party code.

        Raises:
            SettingsError: the folder holds no comparison, or the file names code and is not trusted.
            StorageError: the file is damaged.
        """
        file = folder / NOTE
        if not file.is_file():
            raise SettingsError(f"'{folder}' holds no comparison: it has no {NOTE}. Name the folder of a comparison.")
        more = read_json(file)
        try:
            lanes = [LaneSpec(**lane) for lane in more.pop("lanes")]
            settings, trials = Settings.checked(more.pop("settings")), int(more.pop("trials"))
            at_once = more.pop("at_once", None)
            students = [StudentSpec(**student) for student in more.pop("students", ())]
            note = cls(lanes, settings, trials, None if at_once is None else int(at_once), students, more)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise StorageError(f"'{file}' is not a valid comparison file: {cause(error)}. Start a new comparison.") from error
        named = {"lanes": [vars(lane) for lane in lanes], "students": [vars(student) for student in students]}
        check_trusted({"settings": settings.model_dump(), **named}, file, trust)
        for plugins in (*(lane.plugins for lane in lanes), more.get("observers", ())):
            check_trusted({"methods": plugins}, file, trust)
        return note

    def write(self, folder: Path, registry: Registry) -> None:
        """Write the file; methods passed as objects become names with their options.

        Args:
            folder: the folder of the comparison.
            registry: finds methods.
        """
        lanes = [_without_student(noted(lane, self._options(lane, registry), registry)) for lane in self.lanes]
        students = {"students": [vars(student) for student in self.students]} if len(self.students) > 1 else {}
        counts = {"trials": self.trials, "at_once": self.at_once}
        settings = self.settings.model_dump(mode="json", exclude_none=True)
        write_json(folder / NOTE, {"lanes": lanes, **students, **counts, "settings": settings, **self.more})

    def _options(self, lane: LaneSpec, registry: Registry) -> dict[str, dict[str, Any]]:
        """The options of a lane; those of the comparison that its methods do not use are left out."""
        return lane.settings_in(self.settings, registry).options


def _without_student(lane: dict[str, Any]) -> dict[str, Any]:
    """A lane without the name of its student, if there is only one."""
    return {name: value for name, value in lane.items() if name != "student" or value}
