"""The engine: the library's entry point for a single run.

Engine("timm:resnet32", "resnet8", plugins=["rkd"]).fit()
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import nn

from kdengine.config.factories import Factories
from kdengine.config.settings import Settings, TrainSettings
from kdengine.config.specs import Spec
from kdengine.config.train_options import TrainOptions
from kdengine.config.trust import check_trusted
from kdengine.data.dataset import Data
from kdengine.errors import ModelError, SettingsError, in_shell
from kdengine.methods.distiller import Distiller
from kdengine.plugins.registry import Registry
from kdengine.plugins.selection import choose_distillers, label_of, plugins_given
from kdengine.progress import with_progress
from kdengine.runs.assignment import Assignment, assign
from kdengine.runs.plan import Plan
from kdengine.runs.result import Result
from kdengine.runs.resume import changed_settings, check_methods, without_objects
from kdengine.runs.session import Session
from kdengine.runs.source import Batchable, Loaders
from kdengine.runs.start import Fresh, Resume, Start
from kdengine.runs.teachers import networks_given
from kdengine.runs.train import train_plan
from kdengine.storage.runfolder import RunFolder, folder_named
from kdengine.training.ambient import apart_from_ambient
from kdengine.training.runtime import is_first_process

__all__ = ["Engine"]


class Engine:
    """Distils a teacher, or several, into a student.

    Args:
        teacher: a model spec, or a trained module; or several, of which every method learns; None for plain training.
        student: a model spec, or a module, which is trained in place.
        plugins: methods, given by name, distribution or file, or as distillers.
        data: a data spec or a :class:`kdengine.Data`; ``digits`` by default. Not used if loaders are passed to ``fit``.
        epochs: length of the joint phase.
        train: how the student is trained, as ``TrainSettings(lr=0.05)`` or a mapping.
        seed: seed of weights, batches, augmentation and dropout; 0 by default.
        out: the run folder; by default a new one under ``runs/``.
        teacher_weights: path of the teacher's weights; without it, a teacher given by a spec is trained first. Of several
            teachers, one for each, None for one that is trained first.
        student_weights: path of weights that the student starts from, or of a run; a head of another size starts fresh.
        teacher_train: overrides of the train settings for the teacher's own training, such as ``{"epochs": 100}``.
        teacher_input: the teacher's input, such as ``{"size": 224}``, with ``mean`` and ``std`` on a scale from 0 to 1;
            anything left out is taken from its pretrained weights, else from the data.
        student_input: the student's input, likewise.
        teacher_store: folder in which to keep what the teachers show, so that later runs need not run them; or a table with
            ``folder``, ``taps``, ``budget`` and ``lossy``.
        options: method -> its options, for methods given by name.
        task: what the student is trained for; by default, the task of the data.
        recipe: name of a recipe, or path of a TOML settings file; explicit arguments override it.
        trust: run third-party code that a recipe file names: ``python:`` specs and plugin files.
        registry: finds plugins; a new one by default.
        observers: objects with ``kdengine_...`` hooks.
        optimizer: name of an optimizer in timm, or a function that takes the trainable parameters and returns an optimizer.
        scheduler: a function that takes the optimizer and returns an object whose ``step()`` is called after every update of
            the joint phase; it replaces ``schedule``.
        assignment: complete settings and their objects; replaces the arguments that it covers. See :meth:`of`.
        start: how to start; replaces ``out``. See :meth:`resume`.
        **settings: any of the ``train`` settings, such as ``lr=0.05``; they win over ``train``.

    Raises:
        KDError: for anything the user can fix.
    """

    def __init__(
        self,
        teacher: str | nn.Module | Sequence[str | nn.Module] | None = None,
        student: str | nn.Module | None = None,
        plugins: Iterable[str | Distiller] = (),
        data: str | Data | None = None,
        *,
        epochs: int | None = None,
        train: TrainSettings | Mapping[str, Any] | None = None,
        seed: int | None = None,
        out: str | Path | None = None,
        teacher_weights: str | Path | Sequence[str | Path | None] | None = None,
        student_weights: str | Path | None = None,
        teacher_train: Mapping[str, Any] | None = None,
        teacher_input: Mapping[str, Any] | None = None,
        student_input: Mapping[str, Any] | None = None,
        teacher_store: str | Path | Mapping[str, Any] | None = None,
        options: Mapping[str, Mapping[str, Any]] | None = None,
        task: str | None = None,
        recipe: str | Path | None = None,
        trust: bool = False,
        registry: Registry | None = None,
        observers: Iterable[object] = (),
        optimizer: str | Callable[[list[Any]], torch.optim.Optimizer] | None = None,
        scheduler: Callable[[torch.optim.Optimizer], Any] | None = None,
        assignment: Assignment | None = None,
        start: Start | None = None,
        **settings: Unpack[TrainOptions],
    ) -> None:
        self.assignment = assignment or assign(
            teacher,
            student,
            plugins,
            data,
            epochs=epochs,
            train=train,
            seed=seed,
            teacher_weights=teacher_weights,
            student_weights=student_weights,
            teacher_train=dict(teacher_train or {}),
            teacher_input={} if teacher_input is None else teacher_input,
            student_input={} if student_input is None else student_input,
            teacher_store=teacher_store,
            options=dict(options or {}),
            task=task,
            recipe=recipe,
            trust=trust,
            registry=registry,
            observers=observers,
            optimizer=optimizer,
            scheduler=scheduler,
            **settings,
        )
        self.start: Start = start or Fresh(None if out is None else folder_named(out))

    @property
    def settings(self) -> Settings:
        """Complete and validated; method options are as given, without defaults."""
        return self.assignment.settings

    @classmethod
    def of(
        cls,
        settings: Settings,
        out: str | Path | None = None,
        registry: Registry | None = None,
        observers: Iterable[object] = (),
        data: Data | None = None,
    ) -> Engine:
        """Create an engine from complete settings, such as those of a run folder or the command line."""
        assignment = Assignment.complete(settings, registry=registry, data=data, observers=observers)
        return cls(assignment=assignment, out=out)

    @classmethod
    def resume(
        cls,
        folder: str | Path,
        registry: Registry | None = None,
        observers: Iterable[object] = (),
        *,
        teacher: nn.Module | Sequence[nn.Module | None] | None = None,
        student: nn.Module | None = None,
        plugins: Iterable[str | Distiller] = (),
        optimizer: Callable[[list[Any]], torch.optim.Optimizer] | None = None,
        scheduler: Callable[[torch.optim.Optimizer], Any] | None = None,
        changes: Mapping[str, Any] | None = None,
        override: bool = False,
        trust: bool = False,
    ) -> Engine:
        """Create an engine that resumes an interrupted run from its last saved state.

        Args:
            folder: the run folder.
            registry: as for :class:`Engine`.
            observers: as for :class:`Engine`.
            teacher: teacher module, required if the original run was given a module; of several teachers, a list with None
                for those given by name.
            student: student module, required if the original run was given a module.
            plugins: all methods of the run again, required if it was given objects of classes that no plugin offers.
            optimizer: optimizer factory, required if the original run was given one.
            scheduler: scheduler factory, required if the original run was given one.
            changes: settings to change, such as ``{"train": {"workers": 8}}``.
            override: allow changes that affect the numbers, including a different precision, data set or teacher.
            trust: run third-party code that the folder names: ``python:`` specs and plugin files.

        Raises:
            SettingsError: the folder holds no run, the run is finished, or the changes are not allowed.
            PluginError: a method of the run is not to be found.
        """
        files = RunFolder(folder)
        stored = files.settings()
        if files.result() is not None:
            raise SettingsError(f"The run in '{folder}' is finished. To re-evaluate it: kdengine evaluate {in_shell(folder)}.")
        check_trusted(stored.model_dump(), files.path / "run.toml", trust)
        registry = registry or Registry()
        methods = plugins_given(plugins)
        if methods:
            settings = without_objects(stored, methods, files.path, registry)
        else:
            check_methods(settings := stored, registry)
        if changes:
            settings = changed_settings(_with_its_teachers(settings), changes, files.path, registry, override, methods)
        modules = {**networks_given(teacher), "student": student}
        objects: dict[str, Any] = {"modules": modules, "factories": Factories(optimizer, scheduler)}
        assignment = Assignment.complete(settings, registry=registry, observers=observers, **objects)
        return cls(assignment=replace(assignment, plugins=methods or settings.methods), start=Resume(files.path, override))

    @apart_from_ambient()
    def fit(
        self, train_loader: Batchable | None = None, val_loader: Batchable | None = None, *, progress: bool | None = None
    ) -> Result:
        """Train the student.

        Args:
            train_loader: yields (images [B, C, H, W], labels [B]); or a torch data set of (image, label), where an image is a
                normalised tensor [C, H, W], or a PIL image that kdengine prepares. By default, the engine's data is used.
            val_loader: likewise, for evaluation. Without it, nothing is measured.
            progress: whether to show progress on standard error; by default, on a terminal and in a notebook only.

        Raises:
            KDError: for anything the user can fix; where possible, before anything is written.
            KeyboardInterrupt: training was interrupted; the state after the last step has been saved.
        """
        watched = with_progress(self.assignment, progress)
        return train_plan(self._plan(watched, Loaders(train_loader, val_loader)), self.start)

    def session(self, train_loader: Batchable | None = None, val_loader: Batchable | None = None) -> Session:
        """Data, device and teacher, checked and ready; takes what :meth:`fit` takes.

        Raises:
            KDError: for whatever the user can fix.
        """
        return self.assignment.session(Loaders(train_loader, val_loader))

    @apart_from_ambient()
    def plan(self, train_loader: Batchable | None = None, val_loader: Batchable | None = None) -> Plan:
        """Build and check the run without training or writing anything; the arguments are those of :meth:`fit`.

        Raises:
            KDError: for anything the user can fix.
        """
        return self._plan(self.assignment, Loaders(train_loader, val_loader))

    def _plan(self, assignment: Assignment, loaders: Loaders) -> Plan:
        distillers = choose_distillers(assignment.plugins, assignment.settings.options, assignment.registry)
        label = label_of(assignment.plugins, assignment.registry)
        folder = self._folder(label)  # before the data are loaded, which may take a while
        return Plan.of(assignment.session(loaders), distillers, folder, label)

    def _folder(self, label: str) -> RunFolder:
        student = Spec.parse(self.settings.student, ModelError).name.replace("/", "-")
        name = f"{student}-{label.replace('+', '-')}"
        return self.start.folder(name, check=is_first_process())


def _with_its_teachers(settings: Settings) -> Settings:
    """These settings with the teachers' training written out, so that it no longer inherits from the student's."""
    if settings.teacher is None:
        return settings
    return settings.model_copy(update={"teacher_train": settings.own_teacher_training})
