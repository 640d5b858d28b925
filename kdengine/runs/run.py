"""A run in progress, as observers see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from kdengine.config.settings import Settings
from kdengine.config.trust import names_code
from kdengine.data.datamodule import DataModule
from kdengine.data.dataset import Data
from kdengine.errors import DataError, SettingsError, cause
from kdengine.runs.result import Result
from kdengine.storage.sameness import check_same
from kdengine.training.lane import Lane
from kdengine.training.rng import gaussian_kept
from kdengine.training.runtime import Runtime
from kdengine.training.signals import Stopped, listening
from kdengine.training.trainer import fit

if TYPE_CHECKING:
    from kdengine.storage.runfolder import RunFolder

__all__ = ["Run", "train_all", "train_one"]

OF_BATCHES = ("batch_size", "validation", "augment")
"""Train settings that decide which images are in a batch."""


@dataclass(frozen=True)
class Run:
    """What is being trained, and where it is kept.

    Attributes:
        settings: as resolved, with the options of every method.
        lane: the student being taught.
        data: what it is trained on.
        runtime: where it runs.
        folder: the run folder.
        hook: the hooks of all observers.
        advice: what to do to go on after an interruption, where that is not to resume the folder.
    """

    settings: Settings
    lane: Lane
    data: Data | None
    runtime: Runtime
    folder: RunFolder
    hook: Any
    advice: str = ""

    @property
    def title(self) -> str:
        """What to call it: ``resnet8 <- timm:resnet32 (rkd) on digits``."""
        if self.settings.teacher is None:
            return f"{self.settings.student} on {self.settings.data}"
        return f"{self.settings.student} <- {self.settings.teacher} ({self.lane.name}) on {self.settings.data}"

    @property
    def again(self) -> str:
        """What to do to go on after an interruption."""
        if self.advice and not self.advice.startswith("kdengine "):
            return self.advice
        given = [role for role in ("teacher", "student") if str(getattr(self.settings, role)).startswith("module:")]
        if given and not self.advice:
            modules = ", ".join(f"{role}=..." for role in given)
            return f'Engine.resume("{self.folder.path}", {modules}).fit() with the same modules as before'
        trust = " --trust" if names_code(self.settings.model_dump()) else ""
        return (self.advice or f"kdengine run --resume {self.folder.path}") + trust

    @property
    def total_epochs(self) -> int:
        """Epochs of all phases."""
        return self.lane.total_epochs

    @property
    def can_save_within_epochs(self) -> bool:
        """Whether an epoch can be gone on with in its middle: one process, and batches that can be made again."""
        return self.runtime.processes == 1 and self.data is not None

    def prepare(
        self, source: DataModule, teacher: Mapping[str, Any] | None = None, resumed: bool = False, override: bool = False
    ) -> None:
        """Make the folder; of a run that is resumed, return to the state that lies there.

        Args:
            source: what the manifest says of the data is read off it.
            teacher: what the manifest says of the teacher.
            resumed: whether the run has begun before.
            override: whether it may go on with other data, another teacher or in another precision.

        Raises:
            SettingsError: another run lies in the folder, or is in it, or cannot go on as what it was.
            StorageError: the folder cannot be made, or its state cannot be read.
        """
        learnt_from = {"teacher": teacher} if teacher and self.settings.teacher else {}
        facts = {**self.runtime.describe(), "data": source.describe(), **learnt_from}
        try:
            self._enter(facts, resumed, override)
        except BaseException:
            self.folder.free()
            raise

    def _enter(self, facts: Mapping[str, Any], resumed: bool, override: bool) -> None:
        folder = self.folder
        state = {}
        if resumed:
            if self.runtime.is_main:
                folder.take()
            if folder.result() is not None:
                raise SettingsError(f"The run in '{folder.path}' was finished by another process meanwhile.")
            state = folder.load_state()
        if state:
            before = folder.manifest()
            check_same(before, facts, folder.path, override)
            self._check_place(state)
            self._return_to(state)
        if self.runtime.is_main:
            if state:
                if override:
                    folder.write_json("manifest.json", {**before, **facts, "overridden_after_epochs": len(state["history"])})
                folder.write_settings(self.settings)
            else:
                folder.begin(self.settings, facts, fresh=not resumed)
            folder.forget_failure()

    def _check_place(self, state: Mapping[str, Any]) -> None:
        """Refuse to go on within an epoch whose batches would now be other ones."""
        old, new = self.folder.settings(), self.settings
        names = [name for name in OF_BATCHES if getattr(old.train, name) != getattr(new.train, name)]
        names += ["data"] if old.data != new.data else []
        if names and state["meter"]["steps"]:
            raise SettingsError(
                f"'{self.folder.path}' was stopped within an epoch, in which {' and '.join(names)} cannot be changed: the "
                "rest of its batches would be other ones. Leave that out."
            )

    def _return_to(self, state: Mapping[str, Any]) -> None:
        try:
            self.lane.load_state_dict(state)
        except torch.OutOfMemoryError:
            raise
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise SettingsError(
                f"The state saved in '{self.folder.path}' does not fit its run ({cause(error)}): it is that of another version "
                "or of other methods. Begin a new run."
            ) from error


def train_one(run: Run, source: DataModule, teacher: Mapping[str, Any] | None) -> Result:
    """Train one run; what fails it is raised.

    Args:
        run: the run; its folder is made.
        source: batches to train on and to measure accuracy on.
        teacher: what the result says of the teacher.
    """
    results = train_all([run], source, teacher)
    failure = run.lane.failure
    if failure is not None:
        if run.lane.history:
            changed = " --override -o NAME=VALUE" if run.again.startswith("kdengine ") else ""
            failure.add_note(f"{_kept(run)} To go on otherwise: {run.again}{changed}")
        raise failure
    return results[run.lane.name]


def train_all(runs: Sequence[Run], source: DataModule, teacher: Mapping[str, Any] | None) -> dict[str, Result]:
    """Train runs side by side, under the eyes of their observers; the results, by lane, of those that did not fail.

    Args:
        runs: with lanes of different names; their folders are made.
        source: batches to train on and to measure accuracy on.
        teacher: what the results say of the teacher.
    """
    results: dict[str, Result] = {}

    def finish(run: Run) -> None:
        """Write a run's result as soon as there is one."""
        run.lane.retire()
        result = None
        if run.lane.failure is None:
            try:
                result = Result.of(run, teacher if run.settings.teacher else None, source.describe())
            except Exception as error:  # a method may fail in making the network to ship
                run.lane.fail(error)
        if result is None:
            assert run.lane.failure is not None
            _tell(run, run.lane.failure)
            return
        run.hook.kdengine_after_fit(run=run, result=result)
        results[run.lane.name] = result

    try:
        with gaussian_kept(), listening(runs[0].runtime.processes if runs else 1) as stop:
            for run in runs:
                run.hook.kdengine_before_fit(run=run)
            try:
                fit(runs, source, finish, stop)
            except DataError as error:
                if not stop.asked:
                    raise
                raise Stopped from error  # who asked this process to stop has ended those that read its data
    except BaseException as error:
        unfinished = [run for run in runs if run.lane.name not in results and run.lane.failure is None]
        others = [another for run in unfinished if (another := _tell(run, error)) is not None]
        if others and isinstance(error, Stopped):
            raise others[0] from error  # what was to be saved is not
        raise
    finally:
        for run in runs:
            run.lane.retire()
            run.folder.free()
    return results


def _tell(run: Run, error: BaseException) -> Exception | None:
    """Tell the observers of a run why it ends; what fails in that must not hide the reason, and is returned."""
    failed = None
    try:
        run.hook.kdengine_on_error(run=run, error=error)
    except Exception as another:
        error.add_note(f"and then: {type(another).__name__}: {another}")
        failed = another
    if isinstance(error, Exception) and run.lane.failure is None and run.lane.history and not run.folder.is_finished:
        note = f"{_kept(run)} To go on: {run.again}"
        if note not in getattr(error, "__notes__", ()):  # lanes side by side say the same
            error.add_note(note)
    return failed


def _kept(run: Run) -> str:
    kept = len(run.folder.metrics()) if run.folder.state_file.exists() else 0
    return f"{kept} finished epochs are saved."
