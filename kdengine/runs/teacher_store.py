"""The teacher store of a run: checked before anything is trained, and opened once the teachers have their weights."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from kdengine.config.store_settings import kept_of
from kdengine.errors import SettingsError
from kdengine.networks.fingerprint import fingerprint
from kdengine.runs.session import Session
from kdengine.runs.store_identity import batches_of_store, check_batches, command_to_teach, refuse_own_data
from kdengine.runs.teachers import Teacher
from kdengine.seeds import seeded
from kdengine.storage.manifest import versions
from kdengine.storage.sameness import warn_of_rounding
from kdengine.storage.store_folder import FORMAT, StoreFolder
from kdengine.taps import Recorder
from kdengine.taps.anatomy import TapPoint
from kdengine.training.lossy import Exact, Half, TopK
from kdengine.training.runtime import HALVES
from kdengine.training.shelf import KeptTap, Shelf, Space, is_kept_by, process_name

__all__ = ["TeacherStore"]

log = logging.getLogger(__name__)
BY_DEFAULT = ("logits", "embedding")
LONGEST = 80
"""Letters of a teacher's name in the name of its folder."""


@dataclass(frozen=True)
class TeacherStore:
    """What the teachers of a session show, kept in a folder.

    Attributes:
        session: data, device and teachers.
        seeds: of the batches of all trials.
        extends: whether seeds and teachers may be added to a store that has others.
    """

    session: Session
    seeds: tuple[int, ...]
    extends: bool = False

    @classmethod
    def of(cls, session: Session, trials: int = 1, extends: bool = False) -> TeacherStore | None:
        """The store that the settings name, checked but for weights that are not known yet; None if they name none.

        Args:
            session: data, device and teachers.
            trials: repetitions, each with the next seed.
            extends: whether seeds and teachers may be added.

        Raises:
            SettingsError: it was made for something else, or the batches of this run cannot be told again.
        """
        if session.settings.teacher_store.folder is None or not session.teachers:
            return None
        first = session.settings.seed
        store = cls(session, tuple(range(first, first + trials)), extends)
        refuse_own_data(session)
        store._check_lossy()
        note = store.folder.note()
        if note:
            store._check(note, {t.role: fingerprint(t.network.module) for t in session.teachers if not t.is_trained_first})
        return store

    @cached_property
    def folder(self) -> StoreFolder:
        """Its files."""
        return StoreFolder(Path(str(self.session.settings.teacher_store.folder)).expanduser())

    @property
    def images(self) -> int:
        """Most images of a batch in one process."""
        processes = self.session.runtime.processes
        size = min(self.session.settings.train.batch_size, self.session.data.num_samples)
        return max(-(-size // processes), min(size, processes - 1))

    def kept(self, teacher: Teacher, entry: Mapping[str, Any]) -> list[KeptTap]:
        """The taps of a teacher to keep: those that the store has, and those that this run asks for.

        Args:
            teacher: the teacher.
            entry: what the store knows about it; empty if nothing.

        Raises:
            TapError: a tap that the settings name is none of the teacher's.
            SettingsError: a tap of the store lies elsewhere in this teacher.
        """
        known = entry.get("taps", {})
        points = teacher.network.anatomy.resolve_all([*known, *self._asked(teacher)])
        moved = [name for name, tap in known.items() if tap["point"] != _text_of(points[name])]
        if moved:
            raise SettingsError(
                f"The teacher store '{self.folder.path}' has '{moved[0]}' of {teacher.network.name} at "
                f"{known[moved[0]]['point']}; here it is {_text_of(points[moved[0]])}. Name another --teacher-store."
            )
        new = {name: point for name, point in points.items() if name not in known}
        return [
            *(KeptTap(name, points[name], tuple(tap["shape"]), getattr(torch, tap["dtype"])) for name, tap in known.items()),
            *(self._new_taps(teacher, new) if new else ()),
        ]

    def open(self, seed: int, facts: Mapping[str, Any] | None = None) -> None:
        """Let the teachers of the session read and write the batches of a seed; creates the store if there is none.

        Args:
            seed: of the batches.
            facts: what is known about the teachers, which have their weights.

        Raises:
            SettingsError: the store has other teachers, or other weights of these.
            StorageError: it cannot be written to.
        """
        prints = {teacher.role: fingerprint(teacher.network.module) for teacher in self.session.teachers}
        note = self.folder.change(lambda note: self._enter(note, prints, facts))
        if seed == self.seeds[0]:
            self._remark(note)
        space = self.space()
        process = process_name(self.session.runtime.rank, self.session.runtime.processes)
        for teacher in self.session.teachers:
            key = _key(teacher, prints[teacher.role])
            taps = self.kept(teacher, note["teachers"][key])
            teacher.frozen.shelf = Shelf(self.folder, key, seed, taps, self.images, process, space, self._codec)

    def _remark(self, note: Mapping[str, Any]) -> None:
        """Tell what a reader of the numbers should know."""
        warn_of_rounding(note["made_under"], self.session.runtime.describe(), f"The teacher store in {self.folder.path}")
        lossy = self.session.settings.teacher_store.lossy
        if lossy:
            log.info("What the teachers show is kept with loss: teacher_store.lossy = %s", lossy)

    def space(self) -> Space:
        """How much this process may write."""
        budget = self.session.settings.teacher_store.budget
        return Space(None if budget is None else (int(budget) - self.folder.size) // self.session.runtime.processes)

    def entry_of(self, teacher: Teacher, note: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
        """Key and entry of a teacher in a note; if its weights are not known yet, those of one of its name."""
        teachers: Mapping[str, Mapping[str, Any]] = note.get("teachers", {})
        if not teacher.is_trained_first:
            key = _key(teacher, fingerprint(teacher.network.module))
            return key, teachers.get(key, {})
        alike = {"name": _name(teacher), "input": _input(teacher)}
        return next(((key, entry) for key, entry in teachers.items() if alike.items() <= entry.items()), ("", {}))

    @property
    def _codec(self) -> Exact:
        lossy = self.session.settings.teacher_store.lossy
        count = kept_of(lossy)
        if count:
            return TopK(count, self.session.task.num_outputs)
        return Half() if lossy else Exact()

    def _check_lossy(self) -> None:
        """Refuse to keep the largest of logits that no softmax joins, or all of them."""
        task, lossy = self.session.task, self.session.settings.teacher_store.lossy
        count = kept_of(lossy)
        if count and (task.outputs != "classes" or count >= task.num_outputs):
            reason = f"there are {task.num_outputs} classes" if task.outputs == "classes" else f"the outputs are {task.outputs}"
            raise SettingsError(
                f"teacher_store.lossy = {lossy} keeps the {count} largest of the logits of more classes, but in the task "
                f"'{task.name}' {reason}. Leave it out, or keep fewer."
            )

    def _asked(self, teacher: Teacher) -> list[str]:
        """The taps that this run asks the store to keep."""
        settings, known = self.session.settings.teacher_store, teacher.network.anatomy.canonical
        names = ("logits",) if kept_of(settings.lossy) else BY_DEFAULT
        return [*(name for name in names if name in known), *settings.taps]

    def _new_taps(self, teacher: Teacher, points: Mapping[str, TapPoint]) -> list[KeptTap]:
        """Try two images of noise on a teacher to see what its taps are like; weights decide neither shapes nor types."""
        runtime, size = self.session.runtime, self.session.data.input_size
        noise = torch.randn(2, *size, generator=torch.Generator().manual_seed(0)).to(runtime.device)
        model = teacher.frozen.model
        with seeded(0), torch.no_grad(), runtime.autocast(), Recorder(model, points) as recorder:
            trace = recorder(runtime.layout(noise))
        lossy = self.session.settings.teacher_store.lossy
        taps = []
        for name, point in points.items():
            tensor = self._codec.encode(trace[name])
            narrow = torch.float16 if lossy == "half" else HALVES.get(runtime.precision, torch.float32)
            dtype = narrow if is_kept_by(narrow, tensor) else torch.float32
            taps.append(KeptTap(name, point, tuple(tensor.shape[1:]), dtype))
        return taps

    def _check(self, note: Mapping[str, Any], prints: Mapping[str, str]) -> None:
        """Refuse a store that was made for something else.

        Args:
            note: what it is for.
            prints: role -> fingerprint of the weights of each teacher whose weights are known.
        """
        check_batches(self.folder.path, note, batches_of_store(self.session))
        if not self.extends:
            self._check_teachers(note, prints)
        missing = [seed for seed in self.seeds if seed not in note["seeds"]]
        if missing and not self.extends:
            entries = [self.entry_of(teacher, note)[1] for teacher in self.session.teachers]
            weights = [entry.get("weights") for entry in entries]
            command = command_to_teach(self.session.settings, self.folder.path, missing[0], weights)
            also = "; give the run the same --teacher-weights" if any(weights) else ""
            raise SettingsError(
                f"The teacher store '{self.folder.path}' was made for seed = {_listed(note['seeds'])}; this run has "
                f"{_listed(missing)}. Add that first with '{command}'{also}. Or name another folder."
            )

    def _check_teachers(self, note: Mapping[str, Any], prints: Mapping[str, str]) -> None:
        entries = list(note["teachers"].values())
        for teacher in self.session.teachers:
            same = [entry for entry in entries if entry["name"] == _name(teacher)]
            received = _input(teacher)
            fitting = [entry for entry in same if entry["input"] == received]
            weights = prints.get(teacher.role)
            text = ""
            if not same:
                held = ", ".join(entry["name"] for entry in entries)
                text = f"holds what {held} showed, not {teacher.network.name}"
            elif not fitting:
                text = f"holds what {teacher.network.name} showed with the input {same[0]['input']}; this run has {received}"
            elif weights is not None and all(entry["fingerprint"] != weights for entry in fitting):
                held = ", ".join(entry["fingerprint"] for entry in fitting)
                text = f"holds what {teacher.network.name} showed with the weights {held}; this run has the weights {weights}"
            if text:
                raise SettingsError(
                    f"The teacher store '{self.folder.path}' {text}. Name another folder with --teacher-store, or add this "
                    "teacher to the store with 'kdengine teach'."
                )

    def _enter(self, note: dict[str, Any], prints: Mapping[str, str], facts: Mapping[str, Any] | None) -> None:
        """Note what this run adds to the store, after checking that it fits."""
        if note:
            self._check(note, prints)
        else:
            made = {**self.session.runtime.describe(), "versions": versions()}
            batches, data = batches_of_store(self.session), self.session.settings.data
            note |= {"format": FORMAT, "made_under": made, "data": data, "batches": batches, "seeds": [], "teachers": {}}
        note["seeds"] = sorted({*note["seeds"], *self.seeds})
        for teacher, known in zip(self.session.teachers, _members(facts, len(prints)), strict=True):
            key = _key(teacher, prints[teacher.role])
            entry = note["teachers"].get(key, {})
            taps = {tap.name: _described(tap) for tap in self.kept(teacher, entry)}
            weights = teacher.named.weights or known.get("folder")
            note["teachers"][key] = {
                "name": _name(teacher),
                "fingerprint": prints[teacher.role],
                "weights": entry.get("weights", weights),
                "input": _input(teacher),
                "taps": taps,
            }


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def _members(facts: Mapping[str, Any] | None, count: int) -> Sequence[Mapping[str, Any]]:
    """What is known about each teacher."""
    return [{}] * count if facts is None else facts.get("members", [facts])


def _name(teacher: Teacher) -> str:
    """The network of a teacher; those of the zoo are registered with timm, so that it does not matter whether that is named."""
    return teacher.network.name.removeprefix("timm:")


def _input(teacher: Teacher) -> dict[str, Any]:
    """The images that it receives: their size and normalisation."""
    return teacher.network.preprocess.wanted.describe()


def _key(teacher: Teacher, weights: str) -> str:
    """Tells apart what a store keeps: the same weights show something else of other images."""
    return f"{_name(teacher)[:LONGEST]}-{weights}-{zlib.crc32(repr(_input(teacher)).encode()):08x}"


def _text_of(point: TapPoint) -> str:
    """A point in words, with a checksum of all that belongs to it."""
    return f"{point} ({zlib.crc32(repr(point).encode()):08x})"


def _described(tap: KeptTap) -> dict[str, Any]:
    return {"point": _text_of(tap.point), "shape": list(tap.shape), "dtype": str(tap.dtype).removeprefix("torch.")}
