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
        more: further entries, such as the axes of a sweep.
    """

    lanes: Sequence[LaneSpec]
    settings: Settings
    trials: int = 1
    at_once: int | None = None
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
            note = cls(lanes, settings, trials, None if at_once is None else int(at_once), more)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise StorageError(f"'{file}' is not a valid comparison file: {cause(error)}. Start a new comparison.") from error
        check_trusted({"settings": settings.model_dump(), "lanes": [vars(lane) for lane in lanes]}, file, trust)
        for plugins in (*(lane.plugins for lane in lanes), more.get("observers", ())):
            check_trusted({"methods": plugins}, file, trust)
        return note

    def write(self, folder: Path, registry: Registry) -> None:
        """Write the file; methods passed as objects become names with their options.

        Args:
            folder: the folder of the comparison.
            registry: finds methods.
        """
        lanes = [noted(lane, lane.settings_in(self.settings, registry).options, registry) for lane in self.lanes]
        counts = {"trials": self.trials, "at_once": self.at_once}
        settings = self.settings.model_dump(mode="json", exclude_none=True)
        write_json(folder / NOTE, {"lanes": lanes, **counts, "settings": settings, **self.more})
