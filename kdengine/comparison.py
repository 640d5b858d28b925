"""Compare methods on one pair of networks: a lane for each, with shared batches and teacher forwards.

Comparison("timm:resnet32", "resnet8", ["st", "rkd"], trials=5).fit()
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Unpack

from torch import nn

from kdengine.config.settings import Settings
from kdengine.config.specs import Spec
from kdengine.data.dataset import Data
from kdengine.errors import ModelError, SettingsError
from kdengine.methods.distiller import Distiller
from kdengine.plugins.registry import Registry
from kdengine.progress import with_progress
from kdengine.report.ending import announce
from kdengine.report.leaderboard import Leaderboard
from kdengine.runs.assignment import Assignment, RunOptions, assign
from kdengine.runs.comparison_note import ComparisonNote
from kdengine.runs.following import follow
from kdengine.runs.lane_runs import entered, passes, planned
from kdengine.runs.lane_specs import LaneSpec, check_lanes, lane_specs, with_plain
from kdengine.runs.named_observers import select_observers, without_names
from kdengine.runs.ready_teachers import ready_teachers
from kdengine.runs.resume import changed_settings
from kdengine.runs.run import Run
from kdengine.runs.session import Session
from kdengine.runs.source import Batchable, Loaders
from kdengine.runs.start import Fresh, Resume, Start
from kdengine.runs.taught import measured_by_teacher
from kdengine.runs.train import train_all, train_teacher
from kdengine.runs.tuning import Probes, Tuning
from kdengine.storage.locks import FolderLock
from kdengine.storage.names import NOTE, TUNING
from kdengine.storage.runfolder import folder_named
from kdengine.storage.writing import remove_leftovers
from kdengine.training.runtime import Runtime

__all__ = ["Comparison", "LaneSpec", "lane_specs"]

log = logging.getLogger(__name__)


class Comparison:
    """A fair comparison: within a trial, all methods start from the same student and see the same batches.

    Args:
        teacher: a model spec, or a trained module; or several, which teach together.
        student: a model spec, or a module, of which copies are trained.
        methods: what to compare: names of methods (``+`` combines them in one lane) and groups (``all``, ``modern`` ...),
            label -> methods, or lane specs. A plain student is always included.
        data: a data spec, or a :class:`kdengine.Data`.
        trials: number of repetitions; trial k uses ``seed`` + k - 1.
        at_once: number of lanes to train side by side; by default, as many as fit into memory. The remaining lanes follow
            in further passes over the same batches.
        out: the folder; by default a new one under ``runs/``.
        tune_lr: probe learning rates first: True, a number of rates, the rates, or text as for ``--tune-lr``.
        note: further entries of the folder's ``comparison.json``.
        assignment: complete settings and their objects; replaces the arguments that it covers. See :meth:`of`.
        start: how to start; replaces ``out``. See :meth:`resume`.
        **settings: any other argument of :class:`kdengine.Engine`; observers may also be names of plugins.

    Raises:
        KDError: for anything the user can fix.
    """

    def __init__(
        self,
        teacher: str | nn.Module | Sequence[str | nn.Module] | None = None,
        student: str | nn.Module | None = None,
        methods: Iterable[str | LaneSpec] | Mapping[str, Sequence[str | Distiller]] = (),
        data: str | Data | None = None,
        *,
        trials: int = 1,
        at_once: int | None = None,
        out: str | Path | None = None,
        tune_lr: Tuning | bool | int | str | Iterable[float] | None = None,
        note: Mapping[str, Any] | None = None,
        assignment: Assignment | None = None,
        start: Start | None = None,
        **settings: Unpack[RunOptions],
    ) -> None:
        for name, count in (("trials", trials), ("at_once", at_once)):
            if count is not None and count < 1:
                raise SettingsError(f"{name} = {count} is not allowed: it must be at least 1.")
        self.assignment, observers = without_names(assignment or assign(teacher, student, (), data, **settings))
        self.start: Start = start or Fresh(None if out is None else folder_named(out))
        self.lanes = with_plain(lane_specs(methods, self.assignment.registry))
        self.trials, self.at_once, self.note = trials, at_once, dict(note or {})
        self.tuning = Tuning.of(self.note.get("tune_lr") if tune_lr is None else tune_lr)
        self.note |= {} if self.tuning is None else {"tune_lr": self.tuning.text}
        self.note |= select_observers(observers or self.note.get("observers", ()), self.assignment.registry)
        self.folder = self._proposed_folder()
        self._lock: FolderLock | None = None

    @property
    def tuned(self) -> Mapping[str, Any] | None:
        """What the probes of learning rates came to, as in ``comparison.json``: the rate chosen, and every score."""
        return self.note.get("tuned")

    @property
    def _overrides(self) -> bool:
        return isinstance(self.start, Resume) and self.start.override

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
        tune_lr: Tuning | None = None,
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
            tune_lr: which learning rates to probe first.
            **tools: arguments of :meth:`kdengine.runs.assignment.Assignment.complete`.
        """
        assignment = Assignment.complete(settings.model_copy(update={"methods": ()}), **tools)
        return cls(methods=lanes, trials=trials, at_once=at_once, out=out, note=note, tune_lr=tune_lr, assignment=assignment)

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
        note = ComparisonNote.read(Path(folder), trust)
        registry = tools.setdefault("registry", Registry())
        settings = changed_settings(note.settings, changes, Path(folder), registry) if changes else note.settings
        assignment = Assignment.complete(settings.model_copy(update={"methods": ()}), **tools)
        known: dict[str, Any] = {"trials": note.trials, "at_once": at_once or note.at_once, "note": note.more}
        return cls(methods=note.lanes, **known, assignment=assignment, start=Resume(Path(folder), override))

    def fit(
        self, train_loader: Batchable | None = None, val_loader: Batchable | None = None, *, progress: bool | None = None
    ) -> Leaderboard:
        """Train all lanes of all trials; teachers without weights are trained first. Takes what Engine.fit takes.

        Raises:
            KDError: for anything the user can fix; a failure of a single lane is not raised, but shown in the table.
            KeyboardInterrupt: training was interrupted; the state after the last step has been saved.
        """
        main = self._fit(Loaders(train_loader, val_loader), progress).runtime.is_main
        board = Leaderboard.of([self.folder])
        for warning in board.warnings if main else ():
            log.warning("%s", warning)
        if main:
            announce(board, self.folder, self.assignment.registry, self.assignment.observers)
        return board

    def plan(self, train_loader: Batchable | None = None, val_loader: Batchable | None = None) -> list[dict[str, Any]]:
        """What every lane of a trial would be, without training or writing anything; the arguments are those of :meth:`fit`.

        Returns:
            For each lane ``method`` (its label), ``plugins``, and either ``phases``, ``epochs`` and ``connector_parameters``,
            or ``problem``, why it cannot run on this pair.

        Raises:
            KDError: for anything the user can fix.
        """
        self._check()
        session, lanes = follow(self.assignment.session(Loaders(train_loader, val_loader)), self.lanes)
        return [planned(lane, session) for lane in lanes]

    def _fit(self, loaders: Loaders, progress: bool | None) -> Session:
        """Train everything, then free the folder."""
        self._check()
        session = with_progress(self.assignment, progress, many=True).session(loaders)
        if self.tuning is not None and session.data.dataset is None:
            raise SettingsError("tune_lr cannot hold out images of your own loaders. Pass a data set, or set lr yourself.")
        followed, self.lanes = follow(session, self.lanes)
        self.assignment = replace(self.assignment, settings=followed.settings)
        try:
            self._begin(session.runtime)
            self._train(session, self._tuned(followed, progress))
        finally:
            if self._lock is not None:
                self._lock.free()
        session.runtime.same(None)  # wait until the first process has written everything
        return session

    def _tuned(self, session: Session, progress: bool | None) -> Session:
        """Probe learning rates, unless that is not wanted or was done before; returns the session at what was chosen."""
        if self.tuning is None or self.tuned is not None:
            return session
        probes, folder, runtime = Probes(self.tuning, self.lanes, session.settings), self.folder / TUNING, session.runtime
        log.info(probes.announcement)
        start: Start = Resume(folder, self._overrides) if runtime.same((folder / NOTE).is_file()) else Fresh(folder)
        modules = {role: module for role, module in session.modules.items() if role == "student" or probes.settings.teacher}
        assignment = replace(self.assignment, settings=probes.settings, modules=modules)
        note = {"tunes": str(self.folder)}
        probing = Comparison(methods=probes.lanes, at_once=self.at_once, note=note, assignment=assignment, start=start)
        probing._fit(Loaders(), progress)
        outcome = probes.outcome(folder / "trial-1", session.task.scoring)
        self.lanes, self.note["tuned"] = probes.lanes_at(outcome), outcome
        self.assignment = replace(self.assignment, settings=probes.settings_at(outcome))
        self._write_note(runtime)
        return replace(session, settings=self.assignment.settings)

    def _train(self, session: Session, followed: Session) -> None:
        """Train all trials in turn.

        Args:
            session: trains the teachers.
            followed: the same with settings that follow the student; makes the lanes.
        """
        facts: dict[str, Any] | None = None
        trained = False
        for trial in range(1, self.trials + 1):
            trial_session = followed.for_seed(session.settings.seed + trial - 1)
            for runs in passes(self.lanes, trial_session, self.folder / f"trial-{trial}", self.at_once, self._advice):
                needed = any(run.lane.needs_teacher for run in runs)
                if facts is None or (needed and not trained):
                    facts = ready_teachers(session, needed, partial(train_teacher, session))
                    trained = needed
                self._train_pass(runs, trial_session, facts)

    @property
    def _advice(self) -> str:
        """The command that resumes the comparison."""
        command = "sweep" if "axes" in self.note else "compare"
        return f"kdengine {command} --resume {self.note.get('tunes', self.folder)}"

    def _train_pass(self, runs: Sequence[Run], session: Session, facts: Mapping[str, Any] | None) -> None:
        """Train one pass of lanes side by side, then unlock their folders."""
        try:
            train_all([entered(run, session, facts, self._overrides) for run in runs], measured_by_teacher(session), facts)
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
        check_lanes(self.lanes, self.assignment.settings, self.assignment.registry)

    def _begin(self, runtime: Runtime) -> None:
        """Create and lock the folder, and write ``comparison.json``."""
        self.folder = runtime.same(self.folder)
        if not runtime.is_main:
            return
        self._lock = FolderLock(self.folder)
        self._lock.take()
        remove_leftovers(self.folder)
        self._write_note(runtime)

    def _write_note(self, runtime: Runtime) -> None:
        if runtime.is_main:
            note = ComparisonNote(self.lanes, self.assignment.settings, self.trials, self.at_once, self.note)
            note.write(self.folder, self.assignment.registry)
