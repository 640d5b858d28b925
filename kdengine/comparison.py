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

from kdengine.config.settings import InputSettings, Settings, TrainSettings, merge
from kdengine.config.specs import Spec
from kdengine.config.trust import check_trusted
from kdengine.data.dataset import Data
from kdengine.engine import Engine
from kdengine.errors import ModelError, SettingsError, StorageError, cause
from kdengine.methods.distiller import Distiller
from kdengine.plugins.registry import Registry
from kdengine.plugins.selection import belongs_to, choose_distillers, names_of, resolved
from kdengine.report.leaderboard import Leaderboard
from kdengine.runs.lane_specs import LaneSpec, lane_specs_of, name_of, noted, with_plain
from kdengine.runs.resume import changed_settings
from kdengine.runs.run import Run, train_all
from kdengine.runs.session import Session
from kdengine.storage.locks import FolderLock
from kdengine.storage.names import NOTE
from kdengine.storage.reading import read_json
from kdengine.storage.runfolder import RunFolder, folder_named
from kdengine.storage.writing import remove_leftovers, write_json
from kdengine.training.memory import CROWDED, bytes_of, free_bytes
from kdengine.training.runtime import Runtime

__all__ = ["Comparison", "LaneSpec", "lane_specs_of"]

SHARED = ("batch_size", "augment", "validation", "precision", "channels_last", "device", "workers")
"""Training settings that all lanes share, because they share batches and device."""


class Comparison:
    """A fair comparison: in each trial all methods start from the same student and see the same batches.

    Args:
        teacher: a model spec, or a module that is already trained.
        student: a model spec, or a module; copies of it are trained.
        methods: what to compare: names, with ``+`` between those that share a lane, or label -> methods. The student
            without a method is always among them.
        data: a data spec, or a :class:`kdengine.Data`.
        trials: how often; each has a seed of its own, counted up from ``seed``.
        at_once: lanes to train side by side; by default as many as fit into memory. The others follow in another pass,
            on the same batches.
        out: the folder; by default a new one below ``runs/``.
        **settings: whatever else :class:`kdengine.Engine` takes.

    Raises:
        KDError: for whatever of this the user can mend.
    """

    def __init__(
        self,
        teacher: str | nn.Module | None,
        student: str | nn.Module,
        methods: Iterable[str] | Mapping[str, Sequence[str | Distiller]],
        data: str | Data | None = None,
        *,
        trials: int = 1,
        at_once: int | None = None,
        out: str | Path | None = None,
        **settings: Any,
    ) -> None:
        self._engine = Engine(teacher, student, (), data, **settings)
        self._note: dict[str, Any] = {}
        if isinstance(methods, Mapping):
            entries = [LaneSpec(label, plugins) for label, plugins in methods.items()]
        else:
            entries = lane_specs_of([methods] if isinstance(methods, str) else methods, self._engine.registry)
        self._start(entries, trials, out, at_once)

    @classmethod
    def of(
        cls,
        settings: Settings,
        entries: Sequence[LaneSpec],
        trials: int = 1,
        out: str | Path | None = None,
        at_once: int | None = None,
        note: Mapping[str, Any] | None = None,
        **tools: Any,
    ) -> Comparison:
        """A comparison from complete settings, whose methods do not count.

        Args:
            settings: of all lanes.
            entries: the lanes.
            trials: how often.
            out: the folder.
            at_once: lanes to train side by side.
            note: what else to keep in the folder's ``comparison.json``.
            **tools: as :meth:`Engine.of` takes them.
        """
        made = cls.__new__(cls)
        made._note = dict(note or {})
        made._engine = Engine.of(settings.model_copy(update={"methods": ()}), **tools)
        made._start(entries, trials, out, at_once)
        return made

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
            **tools: as :meth:`Engine.of` takes them.

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
            entries = [LaneSpec(**entry) for entry in note.pop("entries")]
            stored, trials = Settings.checked(note.pop("settings")), int(note.pop("trials"))
            before = None if note.get("at_once") is None else int(note["at_once"])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise StorageError(f"'{file}' is not what a comparison notes: {cause(error)}.") from error
        check_trusted({"settings": stored.model_dump(), "entries": [vars(entry) for entry in entries]}, file, trust)
        for entry in entries:
            check_trusted({"methods": entry.plugins}, file, trust)
        registry = tools.setdefault("registry", Registry())
        settings = changed_settings(stored, changes, Path(folder), registry) if changes else stored
        note.pop("at_once", None)
        made = cls.of(settings, entries, trials, folder, at_once or before, note, **tools)
        made._resumed, made._override = True, override
        return made

    def fit(self, train_loader: Iterable[Any] | None = None, val_loader: Iterable[Any] | None = None) -> Leaderboard:
        """Train all lanes of all trials; the teacher is trained first where it has no weights.

        Raises:
            KDError: for whatever the user can mend, but not for what fails a single lane: that is a row of the table.
            KeyboardInterrupt: it was interrupted; the state after the last step has been saved.
        """
        self._check()
        room = self._engine.room(train_loader, val_loader)
        try:
            self._begin(room.runtime)
            self._train(room)
        finally:
            if self._lock is not None:
                self._lock.free()
        room.runtime.same(None)  # every process waits until the first one has written everything
        return Leaderboard.of([self.folder])

    def _train(self, room: Session) -> None:
        """All trials, one after the other."""
        facts: dict[str, Any] | None = None
        taught = False
        for trial in range(1, self.trials + 1):
            trial_room = room.for_seed(room.settings.seed + trial - 1)
            for lanes in self._passes(trial_room, self.folder / f"trial-{trial}"):
                needed = any(run.lane.needs_teacher for run in lanes)
                if facts is None or (needed and not taught):
                    facts = room.ready_teacher(needed, partial(self._engine.train_teacher, room.source.data))
                    taught = needed
                self._train_pass(lanes, trial_room, facts)

    def _train_pass(self, lanes: Sequence[Run], room: Session, facts: Mapping[str, Any] | None) -> None:
        """Lanes side by side; afterwards nothing here keeps them alive."""
        try:
            train_all([self._prepared(run, room, facts) for run in lanes], room.source, facts)
        finally:
            for run in lanes:
                run.folder.free()

    def _start(self, entries: Sequence[LaneSpec], trials: int, out: str | Path | None, at_once: int | None) -> None:
        for name, count in (("trials", trials), ("at_once", at_once)):
            if count is not None and count < 1:
                raise SettingsError(f"{name} = {count}: at least one is needed.")
        student = Spec.parse(self._engine.settings.student, ModelError).name.replace("/", "-")
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        self.folder = folder_named(out) if out is not None else Path("runs") / f"compare-{student}-{stamp}"
        self.entries, self.trials, self.at_once = with_plain(entries), trials, at_once
        self._resumed = self._override = False
        self._lock: FolderLock | None = None

    def _check(self) -> None:
        """Refuse a folder that is taken, options of no method, and methods that cannot be made, before any work is done."""
        if not self._resumed and (self.folder / NOTE).exists():
            raise SettingsError(
                f"'{self.folder}' already holds a comparison. Continue it with 'kdengine compare --resume {self.folder}', "
                "or choose another --out."
            )
        settings, registry = self._engine.settings, self._engine.registry
        used = {name for entry in self.entries for name in names_of(entry.plugins, registry)}
        strange = [key for key in settings.options if not belongs_to(key, used)]
        if strange:
            raise SettingsError(f"Options are given for {', '.join(strange)}, which no lane of this comparison uses.")
        for entry in self.entries:
            shared = [name for name in entry.train if name in SHARED]
            if shared:
                raise SettingsError(f"All lanes share train.{shared[0]}, because they share their batches. Run them apart.")
            choose_distillers(copy.deepcopy(list(entry.plugins)), self._settings_of(entry, settings).options, registry)

    def _begin(self, runtime: Runtime) -> None:
        """Make the folder, and note in it what is compared."""
        self.folder = runtime.same(self.folder)
        if not runtime.is_main:
            return
        settings = self._engine.settings
        entries = [noted(entry, self._settings_of(entry, settings).options, self._engine.registry) for entry in self.entries]
        shape = {"trials": self.trials, "at_once": self.at_once}
        note = {"entries": entries, **shape, "settings": settings.model_dump(mode="json", exclude_none=True)}
        self._lock = FolderLock(self.folder)
        self._lock.take()
        remove_leftovers(self.folder)
        write_json(self.folder / NOTE, {**note, **self._note})

    def _passes(self, room: Session, folder: Path) -> Iterator[list[Run]]:
        """The runs of a trial that are not at their end yet, as many together as there is room for.

        A pass is put together when the one before it is over.
        """
        ended = room.runtime.same([RunFolder(folder / entry.label).ended for entry in self.entries])
        waiting = [entry for entry, over in zip(self.entries, ended, strict=True) if not over]
        while waiting:
            runs = self._next_pass(waiting, room, folder)
            if runs:
                yield runs
            runs.clear()  # their memory is free for the next pass

    def _next_pass(self, waiting: list[LaneSpec], room: Session, folder: Path) -> list[Run]:
        """As many of the waiting entries as there is room for, which then wait no more."""
        space = CROWDED * free_bytes(room.runtime.device)
        runs: list[Run] = []
        while waiting and not self._is_full(runs, space, room.runtime):
            run = self._made(waiting.pop(0), room, folder)
            runs += [] if run is None else [run]
        return runs

    def _is_full(self, runs: Sequence[Run], space: float, runtime: Runtime) -> bool:
        """Whether no further lane is to join a pass; the same in every process."""
        if self.at_once is not None:
            return len(runs) >= self.at_once
        return bool(runtime.same(sum(bytes_of(run.lane) for run in runs) > space))

    def _made(self, entry: LaneSpec, room: Session, folder: Path) -> Run | None:
        """The run of an entry; None for what cannot be put together, which is noted as failed."""
        place = RunFolder(folder / entry.label)
        settings = self._settings_of(entry, room.settings)
        distillers = choose_distillers(copy.deepcopy(list(entry.plugins)), settings.options, room.registry)
        try:
            lane = replace(room, settings=settings).lane(entry.label, room.twin(), distillers)
        except Exception as error:  # a method may fail in any way; the others go on
            if room.runtime.is_main:
                place.begin(settings, {**room.runtime.describe(), "data": room.source.describe()}, fresh=False)
                place.write_json("failed.json", {"error": cause(error), "epoch": 0})
                place.free()
            return None
        settings = resolved(settings, distillers, own_loaders=room.source.data is None)
        hook = self._engine.hooks(place, room.runtime)
        advice = f"kdengine {'sweep' if 'axes' in self._note else 'compare'} --resume {self.folder}"
        return Run(settings, lane, room.source.data, room.runtime, place, hook, advice)

    def _settings_of(self, entry: LaneSpec, settings: Settings) -> Settings:
        """The settings of one lane as a run of its own."""
        used = names_of(entry.plugins, self._engine.registry)
        given = {key: value for key, value in settings.options.items() if belongs_to(key, used)}
        methods = tuple(name_of(plugin) for plugin in entry.plugins)
        train = TrainSettings.checked({**settings.train.model_dump(), **entry.train}, owner="train")
        changes: dict[str, Any] = {"methods": methods, "options": merge(given, entry.options), "train": train}
        if not methods:
            changes |= {"teacher": None, "teacher_weights": None, "teacher_train": {}, "teacher_input": InputSettings()}
        return settings.model_copy(update=changes)

    def _prepared(self, run: Run, room: Session, teacher: Mapping[str, Any] | None) -> Run:
        """The run with its folder made, or its state loaded; it can be repeated alone with the same teacher."""
        if teacher and "folder" in teacher and run.lane.needs_teacher:
            weights = str(Path(teacher["folder"]) / "student.safetensors")
            run = replace(run, settings=run.settings.model_copy(update={"teacher_weights": weights}))
        begun = bool(room.runtime.same((run.folder.path / "run.toml").exists()))
        run.prepare(room.source, teacher, begun, self._override)
        return run
