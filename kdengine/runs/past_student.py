"""The student of a finished run, rebuilt from its folder."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from kdengine.config.settings import LOADERS, Settings
from kdengine.config.trust import check_trusted
from kdengine.data.class_names import check_class_names
from kdengine.data.dataset import Data, blank
from kdengine.data.decoding import Fitting
from kdengine.data.load import load_data
from kdengine.errors import SettingsError, StorageError, in_shell
from kdengine.networks.inputs import ImageSpec, Preprocess
from kdengine.networks.models import ModelSource
from kdengine.networks.weights import load_weights
from kdengine.plugins.registry import Registry
from kdengine.plugins.selection import choose_distillers
from kdengine.runs.session import Session
from kdengine.storage.names import BEST, LAST, PUBLISHED
from kdengine.storage.runfolder import RunFolder
from kdengine.tasks.task import Task

__all__ = ["WEIGHTS", "PastStudent"]

log = logging.getLogger(__name__)

WEIGHTS = {"last": LAST, "best": BEST, "ema": "student-ema.safetensors"}
"""The files of a run folder with the weights of the last and of the best epoch, and with their moving average."""


@dataclass(frozen=True)
class PastStudent:
    """The student of a finished run, or the network that its methods deploy.

    Attributes:
        settings: settings of the run.
        result: the content of ``result.json``.
        data: the data to use it on; without images if only the folder was read.
        registry: finds what plugins offer.
        task: what the student is for.
        network: takes images [B, C, H, W] of ``preprocess.wanted``.
        preprocess: turns the images of the data into these.
        file: the file of its weights.
    """

    settings: Settings
    result: Mapping[str, Any]
    data: Data
    registry: Registry
    task: Task
    network: nn.Module
    preprocess: Preprocess
    file: Path

    @classmethod
    def open(
        cls,
        folder: str | Path,
        weights: str = "last",
        *,
        data: str | None = None,
        trust: bool = False,
        device: str | None = None,
        images: bool = True,
    ) -> PastStudent:
        """Rebuild the student and load its weights.

        Args:
            folder: the run folder.
            weights: ``"last"``, ``"best"`` or ``"ema"``, the moving average.
            data: a data spec to use instead of the run's.
            trust: run third-party code that the folder names: ``python:`` specs.
            device: replaces the device of the run.
            images: load the data; else what the folder records about it must do, unless methods deploy another network.

        Raises:
            KDError: the folder holds no finished run, or its student does not match the shape or classes of the data.
        """
        files = RunFolder(folder)
        settings, result = files.settings(), files.result()
        if result is None:
            raise SettingsError(f"The run in '{folder}' is not finished. Resume it: kdengine run --resume {in_shell(folder)}.")
        if settings.student.startswith("module:"):
            raise SettingsError(
                f"The student of '{folder}' was passed as a module; only a network given by name can be rebuilt."
            )
        if device is not None:
            settings = settings.model_copy(update={"train": settings.train.model_copy(update={"device": device})})
        deployed_by = bool(result.get("deployed_by"))
        images = images or deployed_by
        check_trusted(_used(settings, data, images, deployed_by), files.path / "run.toml", trust)
        registry = Registry()
        known = _loaded(settings, data, folder, registry) if images else _recorded(result)
        check_class_names(result.get("data", {}).get("classes"), known, f"the student of '{folder}'")
        task = registry.task(settings.task or known.task).of(known, settings.train)
        preprocess = _preprocess(result["student"].get("input"), known)
        if deployed_by:
            network = _deployed(settings, files, known, registry)
        else:
            source = ModelSource(settings.student, task.network_options(), preprocess.wanted.size, registry)
            network = source.create(settings.seed)
        file = _weights_file(files.path, weights, deployed_by)
        load_weights(network, file, f"'{settings.student}'")
        return cls(settings, result, known, registry, task, network.eval(), preprocess, file)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes in the order of their indices, as the run recorded them, else as the data has them."""
        return tuple(self.result.get("data", {}).get("classes") or self.data.classes)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs of the network: those of the classes; empty if its outputs are no classes."""
        return self.classes if len(self.classes) == self.task.num_outputs else ()


def _used(settings: Settings, data: str | None, images: bool, with_methods: bool) -> dict[str, Any]:
    """The settings that may name code to run."""
    used: dict[str, Any] = {"student": settings.student, **({"data": settings.data} if images and not data else {})}
    return {**used, "teacher": settings.teachers, "methods": settings.methods} if with_methods else used


def _weights_file(folder: Path, weights: str, deployed_by: bool) -> Path:
    """The file of these weights.

    Raises:
        SettingsError: there is no moving average that could be used, or the folder has one set of weights only.
    """
    file = folder / WEIGHTS[weights]
    published = folder / PUBLISHED
    if published.is_file() and not (folder / WEIGHTS["last"]).is_file():
        if weights != "last":
            raise SettingsError(f"'{folder}' was published with one set of weights. Leave out --weights {weights}.")
        return published
    if weights == "ema" and not file.is_file():
        raise SettingsError(f"The run in '{folder}' keeps no moving average: it was trained without train.ema.")
    if weights == "ema" and deployed_by:
        raise SettingsError(
            f"The methods of '{folder}' deploy another network than they train, and the moving average is one of the latter. "
            "Use the last or the best weights."
        )
    return file


def _loaded(settings: Settings, data: str | None, folder: str | Path, registry: Registry) -> Data:
    spec = data or settings.data
    if spec == LOADERS:
        raise SettingsError(f"The run in '{folder}' was trained on loaders of your own. Name data that is loaded: --data SPEC.")
    log.info("Loading %s", spec)
    return load_data(spec, registry)


def _recorded(result: Mapping[str, Any]) -> Data:
    """What a result records about the data of its run, around a grey image."""
    facts = result.get("data", {})
    if not {"name", "num_classes", "input_size"} <= set(facts):
        raise StorageError("The folder does not record the size and the classes of its data. Name the data: --data SPEC.")
    channels, rows, columns = facts["input_size"]
    classes = tuple(facts.get("classes") or map(str, range(facts["num_classes"])))
    mean, std = (tuple(facts.get(name, ())) for name in ("mean", "std"))
    task = result.get("task", {}).get("name", "classification")
    empty = blank((channels, rows, columns), len(classes))
    test = replace(empty.test, fitting=Fitting(**facts.get("fitting", {})))
    return replace(empty, name=facts["name"], classes=classes, mean=mean, std=std, task=task, test=test)


def _deployed(settings: Settings, files: RunFolder, data: Data, registry: Registry) -> nn.Module:
    """The network that the run's methods deploy; its lane is rebuilt only to obtain the architecture.

    Raises:
        KDError: a network or a method cannot be rebuilt, or was passed as an object.
    """
    own = settings.with_teacher_weights([None] * len(settings.teachers)) if settings.teachers else settings
    own = own.model_copy(update={"student_weights": None})
    session = Session.open(own, registry, data=data, alone=True)
    distillers = choose_distillers(settings.methods, settings.options, registry)
    lane = session.lane("evaluate", session.student(), distillers)
    connectors = files.path / "connectors.safetensors"
    if connectors.is_file():
        load_weights(lane.chain[-1].module.distillers, connectors, "the connectors")
    return lane.deployment.of(lane.student)


def _preprocess(received: Mapping[str, Any] | None, data: Data) -> Preprocess:
    """The preprocessing that the student had in its run; none if the folder does not record it."""
    given = ImageSpec(data.input_size, data.mean or None, data.std or None)
    if received is None:
        return Preprocess(given, given)
    channels, rows, columns = received["size"]
    mean, std = (tuple(received[name]) if name in received else None for name in ("mean", "std"))
    return Preprocess(given, ImageSpec((channels, rows, columns), mean, std))
