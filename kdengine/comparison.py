"""Compare methods on one pair of networks, or on several students of one teacher: a lane for each, with shared batches.

Comparison("timm:resnet32", "resnet8", ["st", "rkd"], trials=5).fit()
Comparison("timm:resnet32", ["resnet8", "resnet14"], ["st", "rkd"]).fit()
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

from torch import nn

from kdengine.config.settings import Settings
from kdengine.data.dataset import Data
from kdengine.dispatch.carriage import Carrier, carriage_by, carried
from kdengine.errors import in_shell
from kdengine.launchers.launcher import Launcher
from kdengine.plugins.registry import Registry
from kdengine.progress import is_shown, with_progress
from kdengine.report.ending import announce
from kdengine.report.leaderboard import Leaderboard
from kdengine.runs.assignment import Assignment, RunOptions
from kdengine.runs.comparison_folder import check_new, locked, proposed_folder
from kdengine.runs.comparison_note import ComparisonNote
from kdengine.runs.lane_specs import LaneSpec, Methods, check_lanes, lane_specs
from kdengine.runs.members import Member, members_of, shared_by
from kdengine.runs.named_observers import select_observers, without_names
from kdengine.runs.resume import changed_settings, lanes_again
from kdengine.runs.session import Session
from kdengine.runs.source import Batchable, Loaders
from kdengine.runs.start import Fresh, Resume, Start
from kdengine.runs.store_forecast import Forecast, forecast_of
from kdengine.runs.students import Students, StudentSpec, assign_students, check_students, lanes_of_all
from kdengine.runs.trials import Trials, check_counts
from kdengine.runs.tuning import Probes, Tuning, check_can_probe
from kdengine.shipping.of_students import measure_students
from kdengine.storage.names import NOTE, TUNING
from kdengine.storage.runfolder import folder_named
from kdengine.training.ambient import apart_from_ambient
from kdengine.training.runtime import Runtime

__all__ = ["Comparison", "LaneSpec", "StudentSpec", "lane_specs"]


class Comparison:
    """A fair comparison: within a trial, all methods start from the same student and see the same batches.

    Args:
        teacher: a model spec, or a trained module; or several, which teach together.
        student: a model spec, or a module, of which copies are trained; or several, which get all lanes; or label -> network.
        methods: what to compare: names of methods (``+`` combines them in one lane) and groups (``all``, ``modern`` ...),
            distillers, label -> methods, or lane specs. A plain student is always included.
        data: a data spec, or a :class:`kdengine.Data`.
        trials: number of repetitions; trial k uses ``seed`` + k - 1.
        at_once: lanes to train side by side; by default, as many as fit into memory; the others follow in further passes.
        out: the folder; by default a new one under ``runs/``.
        tune_lr: probe learning rates first: True, a number of rates, the rates, or text as for ``--tune-lr``.
        latency: of several students, measure at the end how long each takes on this machine.
        note: further entries of the folder's ``comparison.json``.
        assignment: complete settings and their objects; replaces the arguments that it covers. See :meth:`of`.
        students: the students of ``assignment``, if there are several.
        start: how to start; replaces ``out``. See :meth:`resume`.
        **settings: those of :class:`kdengine.Engine`; observers may be names, and ``student_weights`` one for each student.

    Raises:
        KDError: for anything the user can fix.
    """

    def __init__(
        self,
        teacher: str | nn.Module | Sequence[str | nn.Module] | None = None,
        student: Students = None,
        methods: Methods = (),
        data: str | Data | None = None,
        *,
        trials: int = 1,
        at_once: int | None = None,
        out: str | Path | None = None,
        tune_lr: Tuning | bool | int | str | Iterable[float] | None = None,
        latency: bool = True,
        note: Mapping[str, Any] | None = None,
        assignment: Assignment | None = None,
        students: Sequence[StudentSpec] = (),
        start: Start | None = None,
        **settings: Unpack[RunOptions],
    ) -> None:
        check_counts(trials=trials, at_once=at_once)
        if assignment is None:
            assignment, students = assign_students(teacher, student, data, settings.pop("student_weights", None), **settings)
        self.assignment, observers = without_names(assignment)
        self.latency, given = latency, assignment.settings
        self.students = list(students) or [StudentSpec(given.student, weights=given.student_weights)]
        self.start: Start = start or Fresh(None if out is None else folder_named(out))
        self.lanes = lanes_of_all(self.students, lane_specs(methods, assignment.registry))
        self.trials, self.at_once, self.note = trials, at_once, dict(note or {})
        self.tuning = Tuning.of(self.note.get("tune_lr") if tune_lr is None else tune_lr)
        self.note |= {} if self.tuning is None else {"tune_lr": self.tuning.text}
        self.note |= select_observers(observers or self.note.get("observers", ()), self.assignment.registry)
        self.folder = proposed_folder(self.start, self.students)
        self.forecast: Forecast | None = None

    @property
    def tuned(self) -> Mapping[str, Any] | None:
        """The learning rate that was chosen, and every score, as in ``comparison.json``; of several students, by label."""
        return self.note.get("tuned")

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
        """A comparison from complete settings; their ``methods`` are ignored.

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
        methods: Methods = (),
        changes: Mapping[str, Any] | None = None,
        at_once: int | None = None,
        override: bool = False,
        trust: bool = False,
        latency: bool = True,
        **tools: Any,
    ) -> Comparison:
        """Resume an interrupted comparison: every lane continues from its last saved state.

        Args:
            folder: folder of the comparison.
            methods: again those that were objects of classes that no plugin offers.
            changes: settings to change; only those that do not affect the numbers, such as ``train.workers``.
            at_once: number of lanes to train side by side from now on.
            override: resume even with a different data set, teacher or precision.
            trust: run third-party code that the folder names: ``python:`` specs and plugin files.
            latency: whether to measure how long each of several students takes, unless that was done.
            **tools: arguments of :meth:`kdengine.runs.assignment.Assignment.complete`.

        Raises:
            SettingsError: the folder holds no comparison, or the changes or methods are not allowed.
            StorageError: a file in the folder is damaged.
            PluginError: a method is not to be found.
        """
        note = ComparisonNote.read(Path(folder), trust)
        registry = tools.setdefault("registry", Registry())
        settings = changed_settings(note.settings, changes, Path(folder), registry) if changes else note.settings
        assignment = Assignment.complete(settings.model_copy(update={"methods": ()}), **tools)
        known: dict[str, Any] = {"trials": note.trials, "at_once": at_once or note.at_once, "note": note.more}
        known |= {"students": note.students, "latency": latency, "start": Resume(Path(folder), override)}
        return cls(methods=lanes_again(note.lanes, methods, Path(folder), registry), **known, assignment=assignment)

    def fit(
        self,
        train_loader: Batchable | None = None,
        val_loader: Batchable | None = None,
        *,
        progress: bool | None = None,
        on: str | Launcher | None = None,
    ) -> Leaderboard:
        """Train all lanes of all trials; teachers without weights are trained first. Takes what Engine.fit takes.

        This process trains them, unless ``on`` is a launcher or the name of one, which carries them to other processes.

        Raises:
            KDError: for anything the user can fix; a failure of a single lane is not raised, but shown in the table.
            KeyboardInterrupt: training was interrupted; the state after the last step has been saved.
        """
        with carried(on, self.assignment.registry, is_shown(progress)) as carriage:
            main = self._fit(Loaders(train_loader, val_loader), progress, carriage).runtime.is_main
        if main and self.latency and len(self.students) > 1:
            labels = [student.label for student in self.students]
            measure_students(self.folder / "trial-1", labels, self.assignment.settings.train.device)
        board = Leaderboard.of([self.folder])
        if main:
            announce(board, self.folder, self.assignment.registry, self.assignment.observers)
        return board

    def plan(self, train_loader: Batchable | None = None, val_loader: Batchable | None = None) -> list[dict[str, Any]]:
        """What every lane of a trial would be, without training or writing anything; the arguments are those of :meth:`fit`.

        Returns:
            For each lane ``method`` (its label), ``plugins``, and either ``phases``, ``epochs`` and ``connector_parameters``,
            or ``problem``, why it cannot run on this pair; of several students also ``student``.

        Raises:
            KDError: for anything the user can fix.
        """
        self._check()
        members = self._members(self.assignment.session(Loaders(train_loader, val_loader)))
        return [row for member in members for row in member.plan()]

    def units(self, on: str | Launcher) -> list[dict[str, Any]]:
        """The units of work that a launcher, or the one of that name, would carry; trains and writes nothing.

        Returns:
            for each its name, ``unit``; ``trial``, ``lanes``, ``teacher_pass``, ``threads``, ``gpus``, ``memory`` in bytes.
        """
        self._check()
        members = self._members(session := self.assignment.session())
        with carriage_by(on, self.assignment.registry) as carriage:
            carriage.open(self.assignment, members, None)
            return carriage.describe(self._all_trials, session, members)

    @property
    def _all_trials(self) -> Trials:
        """All trials; with the command that resumes the comparison."""
        command, folder = "sweep" if "axes" in self.note else "compare", in_shell(self.note.get("tunes", self.folder))
        return Trials(self.folder, self.trials, self.at_once, f"kdengine {command} --resume {folder}", self.start.override)

    @apart_from_ambient()
    def _fit(self, loaders: Loaders, progress: bool | None, carriage: Carrier) -> Session:
        """Train everything, then free the folder."""
        self._check()
        session = with_progress(self.assignment, progress, many=True).session(loaders)
        check_can_probe(self.tuning, session.data)
        members = self._members(session)
        self._take_over(members)
        self.folder = session.runtime.same(self.folder)
        carriage.check(self.assignment, members)
        with locked(self.folder, session.runtime):
            carriage.open(self.assignment, members, self.folder)
            self._write_note(session.runtime)
            members = self._tuned(members, progress, carriage)
            carriage.train(self._all_trials, session, members)
        session.runtime.same(None)  # wait until the first process has written everything
        return session

    def _members(self, session: Session) -> list[Member]:
        """The students with their lanes, after a check of what they need of the teacher store."""
        members = members_of(session, self.students, self.lanes)
        self.forecast = forecast_of(members[0].session, self.lanes, self.trials)
        return members

    def _take_over(self, members: Sequence[Member]) -> None:
        """Record the lanes and the training settings of the members, so that a resumed comparison has the same ones."""
        self.lanes = [lane for member in members for lane in member.lanes]
        settings, self.students = shared_by(members, self.assignment.settings)
        self.assignment = replace(self.assignment, settings=settings)

    def _tuned(self, members: list[Member], progress: bool | None, carriage: Carrier) -> list[Member]:
        """Probe learning rates for each student, unless that is not wanted or was done before; gives all what was chosen."""
        for number, member in enumerate(members if self.tuning is not None else ()):
            label, known = member.student.label, self.tuned or {}
            if label in known or (known and not label):
                continue
            outcome, members[number] = self._probed(member, progress, carriage)
            self.note["tuned"] = {**known, label: outcome} if label else outcome
            self._take_over(members)
            self._write_note(member.session.runtime)
        return members

    def _probed(self, member: Member, progress: bool | None, carriage: Carrier) -> tuple[dict[str, Any], Member]:
        """What the probes for one student come to, and that student at what was chosen."""
        assert self.tuning is not None
        probes, session = Probes(self.tuning, member.lanes, member.settings), member.session
        folder = self.folder / TUNING / member.student.label
        probes.announce(member.student.label)
        resumed = session.runtime.same((folder / NOTE).is_file())
        start: Start = Resume(folder, self.start.override) if resumed else Fresh(folder)
        modules = {role: module for role, module in session.modules.items() if role == "student" or probes.settings.teacher}
        assignment = replace(self.assignment, settings=probes.settings, modules=modules)
        lanes, note = [replace(lane, student="") for lane in probes.lanes], {"tunes": str(self.folder)}
        probing = Comparison(methods=lanes, at_once=self.at_once, note=note, assignment=assignment, start=start)
        probing._fit(Loaders(), progress, carriage)
        outcome = probes.outcome(folder / "trial-1", session.task.scoring)
        return outcome, member.with_settings(probes.settings_at(outcome), probes.lanes_at(outcome))

    def _check(self) -> None:
        """Refuse a folder in use, options of unused methods, and invalid methods before any work is done."""
        check_new(self.start, self.folder)
        check_lanes(self.lanes, self.assignment.settings, self.assignment.registry)
        check_students(self.students[1:], self.assignment.settings, self.assignment.modules, self.assignment.registry)

    def _write_note(self, runtime: Runtime) -> None:
        if runtime.is_main:
            note = ComparisonNote(self.lanes, self.assignment.settings, self.trials, self.at_once, self.students, self.note)
            note.write(self.folder, self.assignment.registry)
