"""Filling a teacher store ahead: the teachers run on every batch that later runs will see, and no student is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from kdengine.errors import DataError, SettingsError, StorageError
from kdengine.runs.ready_teachers import ready_teachers
from kdengine.runs.session import Session
from kdengine.runs.store_forecast import Forecast
from kdengine.runs.teacher_store import TeacherStore
from kdengine.runs.train import train_teacher
from kdengine.training.shelf import Place, Shelf
from kdengine.training.signals import Stop, Stopped, listening
from kdengine.training.trainer import laid_out

__all__ = ["Filling", "Told"]

Told = Callable[[int, int, int, int], None]
"""Hears after every batch: the seed, the epoch from 0, how many of its batches are there, and of how many."""


class Filling:
    """Fills a teacher store; what is there already is not made again, so that it may be stopped and repeated at will.

    Args:
        session: data, device and teachers; the settings name the store and the epochs.
        trials: how many seeds to fill, from that of the settings on.
        views: of every image.

    Raises:
        KDError: there is no teacher or no store, or it was made for something else.
    """

    def __init__(self, session: Session, trials: int = 1, views: int = 1) -> None:
        store = TeacherStore.of(session, trials, extends=True)
        if store is None:
            missing = "--teacher SPEC" if not session.teachers else "--teacher-store FOLDER"
            raise SettingsError(f"To fill a teacher store, give both a teacher and a folder: {missing} is missing.")
        self.session, self.store, self.views = session, store, views
        self.epochs = session.settings.train.epochs

    @property
    def forecast(self) -> Forecast:
        """How large the store will be."""
        return Forecast.of(self.store, self.epochs, self.views)

    @property
    def batches(self) -> int:
        """Batches of all epochs and seeds."""
        return len(self.store.seeds) * self.epochs * len(self.session.data.train)

    def run(self, told: Told) -> dict[str, Any]:
        """Fill the store, and return facts about it; teachers without weights are trained first.

        Args:
            told: hears after every batch.

        Raises:
            KDError: for anything the user can fix.
            Stopped: it was interrupted; what was written is kept.
        """
        self.forecast.check()
        self.fill(self.store.seeds, ready_teachers(self.session, True, partial(train_teacher, self.session)), told)
        self.session.runtime.same(None)  # wait until all processes have written their share
        return self.facts()

    def fill(self, seeds: Sequence[int], facts: Mapping[str, Any] | None, told: Told) -> None:
        """Fill some of the seeds, for which the teachers are ready.

        Args:
            seeds: some of those of the store.
            facts: what is known about the teachers.
            told: hears after every batch.

        Raises:
            KDError: for anything the user can fix.
            Stopped: it was interrupted; what was written is kept.
        """
        with listening() as stop:  # of several processes, each keeps what it has written, wherever it stops
            try:
                for seed in seeds:
                    self._fill(self.session.for_seed(seed), facts, stop, told)
            except DataError as error:
                if not stop.asked:
                    raise
                raise Stopped from error  # the signal also ended the data workers

    def facts(self) -> dict[str, Any]:
        """What the store holds once it is filled."""
        folder, counts = self.store.folder, {"epochs": self.epochs, "batches": self.batches, "views": self.views}
        seeds, teachers = list(self.store.seeds), [teacher.network.name for teacher in self.session.teachers]
        return {"folder": str(folder.path), "teachers": teachers, "seeds": seeds, **counts, "bytes": folder.size}

    def _fill(self, session: Session, facts: Mapping[str, Any] | None, stop: Stop, told: Told) -> None:
        """Fill the epochs of one seed."""
        seed = session.settings.seed
        self.store.open(seed, facts)
        batches, total = session.data.training(self.views), len(session.data.train)
        for epoch in range(self.epochs):
            start = next((number for number in range(total) if self._lacks(epoch, number)), total)
            told(seed, epoch, start, total)
            if start == total:
                continue
            for number, batch in enumerate(batches.epoch(epoch, start), start):
                shown = laid_out(batch, session.runtime)
                for view in range(self.views):
                    place = Place(epoch, number, view, batch.positions)
                    for teacher in session.teachers:
                        assert teacher.frozen.shelf is not None
                        teacher.frozen.trace(shown.view(view), teacher.frozen.shelf.points, place=place)
                self._check_open()
                told(seed, epoch, number + 1, total)
                stop.check()

    def _shelves(self) -> Iterator[Shelf]:
        for teacher in self.session.teachers:
            if teacher.frozen.shelf is not None:
                yield teacher.frozen.shelf

    def _lacks(self, epoch: int, number: int) -> bool:
        """Whether anything of a batch is not there yet."""
        places = [Place(epoch, number, view) for view in range(self.views)]
        return any(shelf.lacks(place) for shelf in self._shelves() for place in places)

    def _check_open(self) -> None:
        """Stop when nothing more can be written.

        Raises:
            StorageError: the disk or the budget is full.
        """
        if not all(shelf.space.is_open for shelf in self._shelves()):
            raise StorageError(
                f"The teacher store '{self.store.folder.path}' is full. What was written is kept: make space, or raise "
                "teacher_store.budget, and run the same command again."
            )
