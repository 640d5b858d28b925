"""Many methods on one pair of networks: one stream of batches, one pass of the teacher, a lane for each method.

Comparison("timm:resnet32", "resnet8", ["st", "rkd"], trials=5).fit()
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from kdengine.config.settings import Settings
from kdengine.config.specs import Spec
from kdengine.config.trust import check_trusted
from kdengine.data.dataset import Data
from kdengine.errors import ModelError, SettingsError, StorageError, cause
from kdengine.methods.distiller import Distiller
from kdengine.plugins.registry import Registry
from kdengine.plugins.selection import belongs_to, choose_distillers, names_of, resolved
from kdengine.report.leaderboard import Leaderboard
from kdengine.runs.assignment import Assignment, assign
from kdengine.runs.lane_specs import LaneSpec, lane_specs, noted, with_plain
from kdengine.runs.resume import changed_settings
from kdengine.runs.run import Run
from kdengine.runs.session import Loaders, Session
from kdengine.runs.start import Fresh, Resume, Start, enter, start_in
from kdengine.runs.train import train_all, train_teacher
from kdengine.storage.locks import FolderLock
from kdengine.storage.names import NOTE
from kdengine.storage.reading import read_json
from kdengine.storage.runfolder import RunFolder, folder_named
from kdengine.storage.writing import remove_leftovers, write_json
from kdengine.training.memory import CROWDED, bytes_of, free_bytes
from kdengine.training.runtime import Runtime

__all__ = ["Comparison", "LaneSpec", "lane_specs"]

SHARED = ("batch_size", "augment", "validation", "precision", "channels_last", "device", "workers")
"""Training settings that all lanes share, because they share batches and device."""


class Comparison:
    """A fair comparison: in each trial all methods start from the same student and see the same batches.

    Args:
        teacher: a model spec, or a module that is already trained.
        student: a model spec, or a module; copies of it are trained.
        methods: what to compare: names, with ``+`` between those that share a lane, label -> methods, or lane specs. The
            student without a method is always among them.
        data: a data spec, or a :class:`kdengine.Data`.
        trials: how often; each has a seed of its own, counted up from ``seed``.
        at_once: lanes to train side by side; by default as many as fit into memory. The others follow in another pass,
            on the same batches.
        out: the folder; by default a new one below ``runs/``.
        note: what else to keep in the folder's ``comparison.json``.
        assignment: complete settings with their objects, in place of all that they hold; see :meth:`of`.
        start: where to start, in place of ``out``; see :meth:`resume`.
        **settings: whatever else :class:`kdengine.Engine` takes.

    Raises:
        KDError: for whatever of this the user can mend.
    """

    def __init__(
        self,
        teacher: str | nn.Module | None = None,
        student: str | nn.Module | None = None,
        methods: Iterable[str | LaneSpec] | Mapping[str, Sequence[str | Distiller]] = (),
        data: str | Data | None = None,
        *,
        trials: int = 1,
        at_once: int | None = None,
        out: str | Path | None = None,
        note: Mapping[str, Any] | None = None,
        assignment: Assignment | None = None,
        start: Start | None = None,
        **settings: Any,
    ) -> None:
        for name, count in (("trials", trials), ("at_once", at_once)):
            if count is not None and count < 1:
                raise SettingsError(f"{name} = {count}: at least one is needed.")
        self.assignment = assignment or assign(teacher, student, (), data, **settings)
        self.start: Start = start or Fresh(None if out is None else folder_named(out))
        self.lanes = with_plain(lane_specs(methods, self.assignment.registry))
        self.trials, self.at_once, self.note = trials, at_once, dict(note or {})
        self.folder = self._proposed_folder()
        self._lock: FolderLock | None = None

    def _proposed_folder(self) -> Path:
        if isinstance(self.start, Resume):
            return self.start.path
        student = Spec.parse(self.assignment.settings.student, ModelError).name.replace("/", "-")
        return self.start.out or Path("runs") / f"compare-{student}-{datetime.now():%Y%m%d-%H%M%S}"

    @classmethod
    def of(
        cls,
        settings: Settings,
        lanes: Sequence[LaneSpec],
        trials: int = 1,
        out: str | Path | None = None,
        at_once: int | None = None,
        note: Mapping[str, Any] | None = None,
        **tools: Any,
    ) -> Comparison:
        """A comparison from complete settings, whose methods do not count.

        Args:
            settings: of all lanes.
            lanes: the lanes.
            trials: how often.
            out: the folder.
            at_once: lanes to train side by side.
            note: what else to keep in the folder's ``comparison.json``.
            **tools: as :meth:`kdengine.runs.assignment.Assignment.complete` takes them.
        """
        assignment = Assignment.complete(settings.model_copy(update={"methods": ()}), **tools)
        return cls(methods=lanes, trials=trials, at_once=at_once, out=out, note=note, assignment=assignment)

    @classmethod
    def resume(
        cls,
        folder: str | Path,
        *,
        changes: Mapping[str, Any] | None = None,
        at_once: int | None = None,
        override: bool = False,
        trust: bool = False,
        **tools: Any,
    ) -> Comparison:
        """A comparison that goes on where it was interrupted: every lane where its state was saved last.

        Args:
            folder: of the comparison.
            changes: settings to go on with otherwise; only those that decide no numbers, such as ``train.workers``.
            at_once: lanes to train side by side from now on.
            override: go on even with other data, another teacher or in another precision.
            trust: run the code of others that the folder names: ``python:`` specs and plugin files.
            **tools: as :meth:`kdengine.runs.assignment.Assignment.complete` takes them.

        Raises:
            SettingsError: no comparison lies in the folder, or it may not go on like that.
            StorageError: what lies there is damaged.
            PluginError: a method came as an object of a class that no plugin offers.
        """
        file = Path(folder) / NOTE
        if not file.is_file():
            raise SettingsError(f"'{folder}' holds no comparison: there is no {NOTE}.")
        note = read_json(file)
        try:
            lanes = [LaneSpec(**lane) for lane in note.pop("lanes")]
            stored, trials = Settings.checked(note.pop("settings")), int(note.pop("trials"))
            before = None if note.get("at_once") is None else int(note["at_once"])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise StorageError(f"'{file}' is not what a comparison notes: {cause(error)}.") from error
        check_trusted({"settings": stored.model_dump(), "lanes": [vars(lane) for lane in lanes]}, file, trust)
        for lane in lanes:
            check_trusted({"methods": lane.plugins}, file, trust)
        registry = tools.setdefault("registry", Registry())
        settings = changed_settings(stored, changes, Path(folder), registry) if changes else stored
        note.pop("at_once", None)
        assignment = Assignment.complete(settings.model_copy(update={"methods": ()}), **tools)
        start = Resume(Path(folder), override)
        return cls(methods=lanes, trials=trials, at_once=at_once or before, note=note, assignment=assignment, start=start)

    def fit(self, train_loader: Iterable[Any] | None = None, val_loader: Iterable[Any] | None = None) -> Leaderboard:
        """Train all lanes of all trials; the teacher is trained first where it has no weights.

        Raises:
            KDError: for whatever the user can mend, but not for what fails a single lane: that is a row of the table.
            KeyboardInterrupt: it was interrupted; the state after the last step has been saved.
        """
        self._check()
        session = self.assignment.session(Loaders(train_loader, val_loader))
        try:
            self._begin(session.runtime)
            self._train(session)
        finally:
            if self._lock is not None:
                self._lock.free()
        session.runtime.same(None)  # every process waits until the first one has written everything
        return Leaderboard.of([self.folder])

    def _train(self, session: Session) -> None:
        """All trials, one after the other."""
        facts: dict[str, Any] | None = None
        taught = False
        for trial in range(1, self.trials + 1):
            own = session.for_seed(session.settings.seed + trial - 1)
            for runs in self._passes(own, self.folder / f"trial-{trial}"):
                needed = any(run.lane.needs_teacher for run in runs)
                if facts is None or (needed and not taught):
                    facts = session.ready_teacher(needed, partial(train_teacher, session))
                    taught = needed
                self._train_pass(runs, own, facts)

    def _train_pass(self, runs: Sequence[Run], session: Session, facts: Mapping[str, Any] | None) -> None:
        """Lanes side by side; afterwards nothing here keeps them alive."""
        try:
            train_all([self._entered(run, session, facts) for run in runs], session.data, facts)
        finally:
            for run in runs:
                run.folder.free()

    def _check(self) -> None:
        """Refuse a folder that is taken, options of no method, and methods that cannot be made, before any work is done."""
        if isinstance(self.start, Fresh) and (self.folder / NOTE).exists():
            raise SettingsError(
                f"'{self.folder}' already holds a comparison. Continue it with 'kdengine compare --resume {self.folder}', "
                "or choose another --out."
            )
        settings, registry = self.assignment.settings, self.assignment.registry
        used = {name for lane in self.lanes for name in names_of(lane.plugins, registry)}
        strange = [key for key in settings.options if not belongs_to(key, used)]
        if strange:
            raise SettingsError(f"Options are given for {', '.join(strange)}, which no lane of this comparison uses.")
        for lane in self.lanes:
            shared = [name for name in lane.train if name in SHARED]
            if shared:
                raise SettingsError(f"All lanes share train.{shared[0]}, because they share their batches. Run them apart.")
            choose_distillers(copy.deepcopy(list(lane.plugins)), lane.settings_in(settings, registry).options, registry)

    def _begin(self, runtime: Runtime) -> None:
        """Make the folder, and note in it what is compared."""
        self.folder = runtime.same(self.folder)
        if not runtime.is_main:
            return
        settings, registry = self.assignment.settings, self.assignment.registry
        lanes = [noted(lane, lane.settings_in(settings, registry).options, registry) for lane in self.lanes]
        shape = {"trials": self.trials, "at_once": self.at_once}
        note = {"lanes": lanes, **shape, "settings": settings.model_dump(mode="json", exclude_none=True)}
        self._lock = FolderLock(self.folder)
        self._lock.take()
        remove_leftovers(self.folder)
        write_json(self.folder / NOTE, {**note, **self.note})

    def _passes(self, session: Session, folder: Path) -> Iterator[list[Run]]:
        """The runs of a trial that are not at their end yet, as many together as there is room for.

        A pass is put together when the one before it is over.
        """
        ended = session.runtime.same([RunFolder(folder / lane.label).ended for lane in self.lanes])
        waiting = [lane for lane, over in zip(self.lanes, ended, strict=True) if not over]
        while waiting:
            runs = self._next_pass(waiting, session, folder)
            if runs:
                yield runs
            runs.clear()  # their memory is free for the next pass

    def _next_pass(self, waiting: list[LaneSpec], session: Session, folder: Path) -> list[Run]:
        """As many of the waiting entries as there is room for, which then wait no more."""
        space = CROWDED * free_bytes(session.runtime.device)
        runs: list[Run] = []
        while waiting and not self._is_full(runs, space, session.runtime):
            run = self._made(waiting.pop(0), session, folder)
            runs += [] if run is None else [run]
        return runs

    def _is_full(self, runs: Sequence[Run], space: float, runtime: Runtime) -> bool:
        """Whether no further lane is to join a pass; the same in every process."""
        if self.at_once is not None:
            return len(runs) >= self.at_once
        return bool(runtime.same(sum(bytes_of(run.lane) for run in runs) > space))

    def _made(self, spec: LaneSpec, session: Session, folder: Path) -> Run | None:
        """The run of a lane; None for what cannot be put together, which is noted as failed."""
        files = RunFolder(folder / spec.label)
        settings = spec.settings_in(session.settings, session.registry)
        distillers = choose_distillers(copy.deepcopy(list(spec.plugins)), settings.options, session.registry)
        try:
            lane = session.lane(spec.label, session.twin(), distillers, settings)
        except Exception as error:  # a method may fail in any way; the others continue
            if session.runtime.is_main:
                files.begin(settings, session.facts(None), fresh=False)
                files.write_json("failed.json", {"error": cause(error), "epoch": 0})
                files.free()
            return None
        settings = resolved(settings, distillers, own_loaders=session.data.dataset is None)
        advice = f"kdengine {'sweep' if 'axes' in self.note else 'compare'} --resume {self.folder}"
        return session.run(settings, lane, files, advice)

    def _entered(self, run: Run, session: Session, teacher: Mapping[str, Any] | None) -> Run:
        """The run with its folder made, or its state loaded; it can be repeated alone with the same teacher."""
        if teacher and "folder" in teacher and run.lane.needs_teacher:
            weights = str(Path(teacher["folder"]) / "student.safetensors")
            run = replace(run, settings=run.settings.model_copy(update={"teacher_weights": weights}))
        override = isinstance(self.start, Resume) and self.start.override
        start = session.runtime.same(start_in(run.folder.path, override))
        enter(run, start, session.facts(teacher if run.settings.teacher else None))
        return run
