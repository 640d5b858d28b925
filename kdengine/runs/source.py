"""Where a run takes its data from: what the user passed, or what the settings name."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from torch.utils.data import Dataset

from kdengine.config.settings import LOADERS, Settings, TrainSettings
from kdengine.data.datamodule import DataModule, left_out
from kdengine.data.dataset import BLANK, Data
from kdengine.data.load import load_data
from kdengine.data.user_datasets import DatasetLoader, loader_of, pictures_of
from kdengine.errors import DataError, SettingsError
from kdengine.plugins.registry import Registry
from kdengine.runs.teachers import is_teacher
from kdengine.tasks import BUILT_IN
from kdengine.tasks.task import Task
from kdengine.training.runtime import Runtime

__all__ = ["Batchable", "Loaders", "batches_of", "check_even", "check_targets", "data_named", "suited", "warn_of_data"]

log = logging.getLogger(__name__)

Batchable = Iterable[Any] | Dataset[Any]
"""What batches can be made of: a loader, or a torch data set."""


@dataclass(frozen=True)
class Loaders:
    """The user's own loaders or torch data sets, used instead of a data set; without the second, nothing is measured."""

    train: Batchable | None = None
    validation: Batchable | None = None


def batches_of(
    settings: Settings,
    registry: Registry,
    runtime: Runtime,
    modules: Mapping[str, nn.Module],
    data: Data | None,
    loaders: Loaders,
) -> DataModule:
    """Batches from the user's loaders, a data set, or the data named in the settings.

    Args:
        settings: settings of the run.
        registry: finds data sets.
        runtime: the device.
        modules: networks that were passed as modules.
        data: replaces the data set named in the settings.
        loaders: the user's own loaders or data sets.

    Raises:
        KDError: there are no such data, or they are malformed.
    """
    if loaders.train is not None:
        return _own_batches(settings, runtime, modules, loaders)
    if loaders.validation is not None:
        raise SettingsError("fit() takes a val_loader only together with a train_loader.")
    return DataModule.of_data(data or data_named(settings, registry), settings, runtime.device, runtime.processes)


def data_named(settings: Settings, registry: Registry) -> Data:
    """The data set that the settings name, loaded.

    Raises:
        KDError: there are no such data, or they are malformed.
    """
    if settings.data == LOADERS:
        raise SettingsError("This run was trained on your own loaders. Pass them again: fit(train_loader, val_loader).")
    log.info("Loading %s", settings.data)
    return load_data(settings.data, registry)


def _own_batches(settings: Settings, runtime: Runtime, modules: Mapping[str, nn.Module], loaders: Loaders) -> DataModule:
    """Batches from what the user passed to ``fit``."""
    pictures = pictures_of(loaders.train, loaders.validation)
    if pictures is not None:
        return DataModule.of_data(pictures, settings, runtime.device, runtime.processes)
    _check_own(settings.train)
    options = settings.train.batch_size, settings.train.workers
    train = loader_of(loaders.train, "train_loader", settings.seed, *options)
    if isinstance(train, DatasetLoader):
        train = replace(train, drop_last=left_out(len(train.dataset), settings.train, runtime.processes) > 0)
    test = loader_of(loaders.validation, "val_loader", None, *options)
    sizes = {role: (settings.teacher_input if is_teacher(role) else settings.student_input).size for role in modules}
    networks = [(module, sizes[role]) for role, module in modules.items()]
    return DataModule.of_loaders(train, test, runtime.device, networks)


def check_targets(data: DataModule, task: Task) -> None:
    """Refuse targets that do not suit a task other than the one that the data are for, or one of a plugin.

    Raises:
        DataError: they do not.
    """
    known = data.dataset
    if known is None or BUILT_IN.get(known.task) is type(task):  # the data were checked for that when they were read
        return
    for split in filter(None, (known.train, known.test, known.validation)):
        type(task).check_targets(split.sample_targets, known.num_classes, f"'{known.name}', trained as '{task.name}',")


def check_even(data: DataModule, runtime: Runtime) -> None:
    """Refuse loaders of the user's own that give the processes of a run different numbers of batches.

    Raises:
        DataError: a process with fewer batches would let the others wait forever.
    """
    if runtime.peers is None or data.dataset is not None:
        return
    counts = runtime.peers.everyone(len(data.train))
    if len(set(counts)) > 1:
        raise DataError(
            f"train_loader gives the {len(counts)} processes different numbers of batches ({', '.join(map(str, counts))}), but "
            "they take every step together. Give each as many, as torch's DistributedSampler with drop_last does."
        )


def warn_of_data(settings: Settings, data: DataModule, loaders: Loaders, processes: int) -> None:
    """Say what a run on these data will not do as expected.

    Args:
        settings: of the run.
        data: as the run sees them.
        loaders: what the user passed; each of the processes has its own.
        processes: that train together.
    """
    if data.test is None:
        log.warning("There is no val_loader, so nothing is measured, and the weights of the last epoch are the result")
    own = getattr(loaders.train, "batch_size", None)
    if isinstance(own, int) and own * processes != settings.train.batch_size:
        log.warning(
            "train_loader has batches of %d images, but train.batch_size, by which the learning rate is chosen, is %d. "
            "Pass batch_size=%d",
            *(own * processes, settings.train.batch_size, own * processes),
        )
    elif settings.train.batch_size > data.num_samples and settings.data != BLANK:
        log.warning(
            "train.batch_size = %d is more than the %d training images, so every epoch is a single step",
            *(settings.train.batch_size, data.num_samples),
        )


def _check_own(train: TrainSettings) -> None:
    """Refuse what kdengine cannot do to batches that it does not make."""
    asked = {
        "validation": train.validation > 0,
        "augment": train.augment not in ("auto", "none"),
        "color_jitter": train.color_jitter > 0,
        "erase": train.erase > 0,
    }
    names = [f"train.{name}" for name, wanted in asked.items() if wanted]
    if names:
        raise SettingsError(
            f"{' and '.join(names)}: only for data that kdengine loads. Split and augment in your own loaders, and leave that "
            "out."
        )


def suited(data: DataModule, settings: Settings, task: Task) -> DataModule:
    """The data as the task wants to be trained on it: drawn by its weights, and mixed.

    Raises:
        SettingsError: the task cannot do what the settings ask for, or the data are loaders of the user's own.
    """
    weights = None
    if settings.train.balanced_sampling:
        if data.targets is None:
            raise SettingsError("train.balanced_sampling applies only to data that kdengine loads. Give your loader a sampler.")
        weights = task.sampling_weights(data.targets)
    return data.suited(settings, weights, task.mixing(settings.train))
