"""Compare methods on one pair of networks: a lane for each, with shared batches and teacher forwards.

Comparison("timm:resnet32", "resnet8", ["st", "rkd"], trials=5).fit()
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Unpack

from torch import nn

from kdengine.config.settings import Settings
from kdengine.config.specs import Spec
from kdengine.config.trust import check_trusted
from kdengine.data.dataset import Data
from kdengine.errors import ModelError, SettingsError, cause
from kdengine.methods.distiller import Distiller
from kdengine.plugins.registry import Registry
from kdengine.plugins.selection import belongs_to, choose_distillers, names_of, resolved
from kdengine.progress import with_progress
from kdengine.report.leaderboard import Leaderboard
from kdengine.runs.assignment import Assignment, RunOptions, assign
from kdengine.runs.lane_specs import LaneSpec, lane_specs, noted, read_note, with_plain
from kdengine.runs.resume import changed_settings
from kdengine.runs.run import Run
from kdengine.runs.session import Loaders, Session
from kdengine.runs.start import OF_BATCHES, Fresh, Resume, Start, enter, start_in
from kdengine.runs.train import train_all, train_teacher
from kdengine.storage.locks import FolderLock
from kdengine.storage.names import NOTE
from kdengine.storage.runfolder import RunFolder, folder_named
from kdengine.storage.writing import remove_leftovers, write_json
from kdengine.training.memory import CROWDED, bytes_of, free_bytes
from kdengine.training.runtime import Runtime

__all__ = ["Comparison", "LaneSpec", "lane_specs"]

SHARED = (*OF_BATCHES, "precision", "channels_last", "device", "workers")
"""Training settings that all lanes must share, because they share batches and device."""


class Comparison:
    """A fair comparison: within a trial, all methods start from the same student and see the same batches.

    Args:
        teacher: a model spec, or a trained module.
        student: a model spec, or a module, of which copies are trained.
        methods: what to compare: names (``+`` combines methods in one lane), label -> methods, or lane specs. A plain
            student is always included.
        data: a data spec, or a :class:`kdengine.Data`.
        trials: number of repetitions; trial k uses ``seed`` + k - 1.
        at_once: number of lanes to train side by side; by default, as many as fit into memory. The remaining lanes follow
            in further passes over the same batches.
        out: the folder; by default a new one under ``runs/``.
        note: further entries of the folder's ``comparison.json``.
        assignment: complete settings and their objects; replaces the arguments that it covers. See :meth:`of`.
        start: how to start; replaces ``out``. See :meth:`resume`.
        **settings: any other argument of :class:`kdengine.Engine`.

    Raises:
        KDError: for anything the user can fix.
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
        **settings: Unpack[RunOptions],
    ) -> None:
        for name, count in (("trials", trials), ("at_once", at_once)):
            if count is not None and count < 1:
                raise SettingsError(f"{name} = {count} is not allowed: it must be at least 1.")
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
        """Create a comparison from complete settings; their ``methods`` are ignored.

        Args:
            settings: settings shared by all lanes.
            lanes: the lanes.
            trials: number of repetitions.
            out: the folder.
            at_once: number of lanes to train side by side.
            note: further entries of the folder's ``comparison.json``.
            **tools: arguments of :meth:`kdengine.runs.assignment.Assignment.complete`.
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
        """Resume an interrupted comparison: every lane continues from its last saved state.

        Args:
            folder: folder of the comparison.
            changes: settings to change; only those that do not affect the numbers, such as ``train.workers``.
            at_once: number of lanes to train side by side from now on.
            override: resume even with a different data set, teacher or precision.
            trust: run third-party code that the folder names: ``python:`` specs and plugin files.
            **tools: arguments of :meth:`kdengine.runs.assignment.Assignment.complete`.

        Raises:
            SettingsError: the folder holds no comparison, or the changes are not allowed.
            StorageError: a file in the folder is damaged.
            PluginError: a method was passed as an object of a class that no plugin registers.
        """
        file = Path(folder) / NOTE
        stored, lanes, trials, stored_at_once, note = read_note(file)
        check_trusted({"settings": stored.model_dump(), "lanes": [vars(lane) for lane in lanes]}, file, trust)
        for lane in lanes:
            check_trusted({"methods": lane.plugins}, file, trust)
        registry = tools.setdefault("registry", Registry())
        settings = changed_settings(stored, changes, Path(folder), registry) if changes else stored
        assignment = Assignment.complete(settings.model_copy(update={"methods": ()}), **tools)
        start = Resume(Path(folder), override)
        width = at_once or stored_at_once
        return cls(methods=lanes, trials=trials, at_once=width, note=note, assignment=assignment, start=start)

    def fit(
        self,
        train_loader: Iterable[Any] | None = None,
        val_loader: Iterable[Any] | None = None,
        *,
        progress: bool | None = None,
    ) -> Leaderboard:
        """Train all lanes of all trials; the teacher is trained first if it has no weights. Takes what Engine.fit takes.

        Raises:
            KDError: for anything the user can fix; a failure of a single lane is not raised, but shown in the table.
            KeyboardInterrupt: training was interrupted; the state after the last step has been saved.
        """
        self._check()
        session = with_progress(self.assignment, progress, many=True).session(Loaders(train_loader, val_loader))
        try:
            self._begin(session.runtime)
            self._train(session)
        finally:
            if self._lock is not None:
                self._lock.free()
        session.runtime.same(None)  # wait until the first process has written everything
        return Leaderboard.of([self.folder])

    def _train(self, session: Session) -> None:
        """Train all trials in turn."""
        facts: dict[str, Any] | None = None
        trained = False
        for trial in range(1, self.trials + 1):
            trial_session = session.for_seed(session.settings.seed + trial - 1)
            for runs in self._passes(trial_session, self.folder / f"trial-{trial}"):
                needed = any(run.lane.needs_teacher for run in runs)
                if facts is None or (needed and not trained):
                    facts = session.ready_teacher(needed, partial(train_teacher, session))
                    trained = needed
                self._train_pass(runs, trial_session, facts)

    def _train_pass(self, runs: Sequence[Run], session: Session, facts: Mapping[str, Any] | None) -> None:
        """Train one pass of lanes side by side, then unlock their folders."""
        try:
            train_all([self._entered(run, session, facts) for run in runs], session.data, facts)
        finally:
            for run in runs:
                run.folder.free()

    def _check(self) -> None:
        """Refuse a folder in use, options of unused methods, and invalid methods before any work is done."""
        if isinstance(self.start, Fresh) and (self.folder / NOTE).exists():
            raise SettingsError(
                f"'{self.folder}' already holds a comparison. Continue it with 'kdengine compare --resume {self.folder}', "
                "or choose another --out."
            )
        settings, registry = self.assignment.settings, self.assignment.registry
        used = {name for lane in self.lanes for name in names_of(lane.plugins, registry)}
        unused = [key for key in settings.options if not belongs_to(key, used)]
        if unused:
            raise SettingsError(f"No lane uses the options of {', '.join(unused)}. Remove them, or add such a lane.")
        for lane in self.lanes:
            shared = [name for name in lane.train if name in SHARED]
            if shared:
                raise SettingsError(f"train.{shared[0]} must be the same in all lanes. Compare the values in separate runs.")
            choose_distillers(copy.deepcopy(list(lane.plugins)), lane.settings_in(settings, registry).options, registry)

    def _begin(self, runtime: Runtime) -> None:
        """Create and lock the folder, and write ``comparison.json``."""
        self.folder = runtime.same(self.folder)
        if not runtime.is_main:
            return
        settings, registry = self.assignment.settings, self.assignment.registry
        lanes = [noted(lane, lane.settings_in(settings, registry).options, registry) for lane in self.lanes]
        counts = {"trials": self.trials, "at_once": self.at_once}
        note = {"lanes": lanes, **counts, "settings": settings.model_dump(mode="json", exclude_none=True)}
        self._lock = FolderLock(self.folder)
        self._lock.take()
        remove_leftovers(self.folder)
        write_json(self.folder / NOTE, {**note, **self.note})

    def _passes(self, session: Session, folder: Path) -> Iterator[list[Run]]:
        """The unfinished runs of a trial, in passes of as many as fit.

        Each pass is built only after the previous one is over.
        """
        ended = session.runtime.same([RunFolder(folder / lane.label).ended for lane in self.lanes])
        waiting = [lane for lane, done in zip(self.lanes, ended, strict=True) if not done]
        while waiting:
            runs = self._next_pass(waiting, session, folder)
            if runs:
                yield runs
            runs.clear()  # frees their memory for the next pass

    def _next_pass(self, waiting: list[LaneSpec], session: Session, folder: Path) -> list[Run]:
        """Take as many of the waiting lanes as fit into the next pass."""
        space = CROWDED * free_bytes(session.runtime.device)
        runs: list[Run] = []
        while waiting and not self._is_full(runs, space, session.runtime):
            run = self._prepared(waiting.pop(0), session, folder)
            runs += [] if run is None else [run]
        return runs

    def _is_full(self, runs: Sequence[Run], space: float, runtime: Runtime) -> bool:
        """Whether the pass can take no further lane; all processes agree."""
        if self.at_once is not None:
            return len(runs) >= self.at_once
        return bool(runtime.same(sum(bytes_of(run.lane) for run in runs) > space))

    def _prepared(self, spec: LaneSpec, session: Session, folder: Path) -> Run | None:
        """Build the run of a lane; if that fails, record the failure in its folder and return None."""
        files = RunFolder(folder / spec.label)
        settings = spec.settings_in(session.settings, session.registry)
        distillers = choose_distillers(copy.deepcopy(list(spec.plugins)), settings.options, session.registry)
        try:
            lane = session.lane(spec.label, session.twin(), distillers, settings)
        except Exception as error:  # methods raise errors of any type; the other lanes continue
            if session.runtime.is_main:
                files.begin(settings, session.facts(None), fresh=False)
                files.write_json("failed.json", {"error": cause(error), "epoch": 0})
                files.free()
            return None
        settings = resolved(settings, distillers, own_loaders=session.data.dataset is None)
        advice = f"kdengine {'sweep' if 'axes' in self.note else 'compare'} --resume {self.folder}"
        return session.run(settings, lane, files, advice)

    def _entered(self, run: Run, session: Session, teacher: Mapping[str, Any] | None) -> Run:
        """Create the folder of a run or restore its state; its settings name the cached teacher, so it can be rerun alone."""
        if teacher and "folder" in teacher and run.lane.needs_teacher:
            weights = str(Path(teacher["folder"]) / "student.safetensors")
            run = replace(run, settings=run.settings.model_copy(update={"teacher_weights": weights}))
        override = isinstance(self.start, Resume) and self.start.override
        start = session.runtime.same(start_in(run.folder.path, override))
        enter(run, start, session.facts(teacher if run.settings.teacher else None))
        return run
