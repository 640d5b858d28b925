"""How large a teacher store will be, before anything is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ByteSize

from kdengine.errors import SettingsError
from kdengine.runs.lane_specs import LaneSpec, views_of_lanes
from kdengine.runs.session import Session
from kdengine.runs.teacher_store import TeacherStore
from kdengine.runs.teachers import Teacher
from kdengine.storage.slots import SlotFile
from kdengine.storage.store_folder import taken
from kdengine.training.lane import Lane
from kdengine.training.shelf import place_name, process_name

__all__ = ["Forecast", "forecast_of", "in_words", "read_of_teacher"]


@dataclass(frozen=True)
class Forecast:
    """What a run will need of a store.

    Attributes:
        folder: the store.
        bytes: size of all that the run reads or writes.
        missing: how much of that is not there yet.
        there: size of the folder now.
        free: what is free on its disk.
        budget: the largest size of the folder; None without a limit.
    """

    folder: str
    bytes: int
    missing: int
    there: int
    free: int
    budget: int | None = None

    @classmethod
    def of(cls, store: TeacherStore, epochs: int, views: int = 1) -> Forecast:
        """At most what so many epochs take, in every seed of the store's session.

        Args:
            store: checked.
            epochs: in which the teachers are read.
            views: of every image.
        """
        sizes = [size for teacher in store.session.teachers for size in _files(store, teacher, epochs, views)]
        budget = store.session.settings.teacher_store.budget
        return cls(
            str(store.folder.path),
            sum(size for size, _ in sizes),
            sum(max(0, size - have) for size, have in sizes),
            store.folder.size,
            store.folder.free,
            None if budget is None else int(budget),
        )

    def check(self) -> None:
        """Refuse a run that would not fit.

        Raises:
            SettingsError: it needs more than the budget, or than the disk has.
        """
        over = None
        if self.budget is not None and self.there + self.missing > self.budget:
            over = f"teacher_store.budget is {_size(self.budget)}"
        elif self.missing > self.free:
            over = f"its disk has {_size(self.free)} left"
        if over:
            has = f" and has {_size(self.there)}" if self.there else ""
            raise SettingsError(
                f"The teacher store '{self.folder}' would need up to {_size(self.missing)} more{has}, but {over}. Train fewer "
                "epochs, keep fewer taps, accept teacher_store.lossy=half, or name a folder on a larger disk."
            )

    def describe(self) -> dict[str, Any]:
        """As plain data."""
        return dict(vars(self))

    def __str__(self) -> str:
        return in_words(vars(self))


def forecast_of(session: Session, lanes: Sequence[LaneSpec], trials: int) -> Forecast | None:
    """What a comparison will need of its teacher store, phases before the joint one aside; None if it has no store.

    Args:
        session: data, device and teachers.
        lanes: its lanes.
        trials: repetitions, each with the next seed.

    Raises:
        SettingsError: the store was made for something else, or would be too large.
    """
    store = TeacherStore.of(session, trials)
    if store is None:
        return None
    forecast = Forecast.of(store, session.settings.train.epochs, views_of_lanes(lanes, session.registry))
    forecast.check()
    return forecast


def in_words(forecast: Mapping[str, Any]) -> str:
    """A forecast as plain data, in a sentence."""
    whole, missing = _size(forecast["bytes"]), forecast["missing"]
    rest = f"{_size(missing)} of them not there yet" if missing else "all of them there"
    return f"Teacher store '{forecast['folder']}': up to {whole} for this run, {rest}; {_size(forecast['free'])} are free"


def read_of_teacher(lane: Lane) -> tuple[int, int]:
    """In how many epochs a lane reads its first teachers at most, and in how many views."""
    phases = lane.chain[0].phases
    if not lane.needs_teacher:
        return 0, 1
    return sum(phase.epochs for phase in phases), max(phase.views for phase in phases)


def _files(store: TeacherStore, teacher: Teacher, epochs: int, views: int) -> Iterator[tuple[int, int]]:
    """Final and present size of every file of a teacher."""
    key, entry = store.entry_of(teacher, store.folder.note())
    steps, processes = len(store.session.data.train), store.session.runtime.processes
    for tap in store.kept(teacher, entry):
        slot = SlotFile(store.folder.path, tap.dtype, store.images * tap.values).slot
        for seed in store.seeds:
            for epoch in range(epochs):
                for view in range(views):
                    for rank in range(processes):
                        place = place_name(epoch, view, process_name(rank, processes))
                        file = store.folder.epoch_file(key, seed, place, tap.name)
                        there = taken(file) if key else 0
                        # the last batch of an epoch may be smaller than the others
                        yield steps * slot, steps * slot if there > (steps - 1) * slot else there


def _size(count: int) -> str:
    return ByteSize(count).human_readable()
