"""What the lanes of a run share: its data, its device and its teacher."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from kdengine.config.settings import Settings
from kdengine.data.datamodule import DataModule
from kdengine.errors import ModelError
from kdengine.methods.distiller import Distiller
from kdengine.networks.factory import NetworkFactory
from kdengine.networks.fingerprint import fingerprint
from kdengine.networks.flops import count_flops
from kdengine.networks.inputs import Preprocessed
from kdengine.networks.models import ModelSource, check_name, count_parameters
from kdengine.networks.network import LaneContext, Network
from kdengine.networks.preprocess import preprocess_for
from kdengine.networks.weights import load_weights
from kdengine.plugins.registry import Registry
from kdengine.runs.teacher_cache import CachedTeacher
from kdengine.training.build import make_lane
from kdengine.training.evaluation import evaluate
from kdengine.training.lane import Lane
from kdengine.training.runtime import Runtime
from kdengine.training.teacher import FrozenTeacher

__all__ = ["Session", "check_networks"]

log = logging.getLogger(__name__)
TEACHER_SEED = 1_000_003
"""Added to the seed for the teacher's fresh weights, so that it and a student of its kind begin differently."""


def check_networks(settings: Settings, given: Mapping[str, nn.Module], registry: Registry) -> None:
    """Refuse unknown networks and missing weights before the data are read, which may take a while.

    Raises:
        ModelError: a network or a file of weights does not exist.
    """
    for role, name in (("teacher", settings.teacher), ("student", settings.student)):
        if name is not None and role not in given:
            check_name(name, registry)
    if settings.teacher_weights is not None and not os.path.exists(os.path.expanduser(settings.teacher_weights)):
        raise ModelError(f"There is no file of weights '{settings.teacher_weights}'.")


@dataclass(frozen=True)
class Session:
    """Data, device and teacher, and what makes lanes for them.

    Attributes:
        settings: of the run; the seed decides the weights of new networks.
        registry: finds networks.
        runtime: where everything runs.
        source: batches.
        given: ``"student"`` and ``"teacher"``, where the caller gave modules.
        teacher: the network to learn from, if any; it may have no weights yet.
        lessons: runs the teacher.
    """

    settings: Settings
    registry: Registry
    runtime: Runtime
    source: DataModule
    given: Mapping[str, nn.Module]
    teacher: Network | None = None
    lessons: FrozenTeacher | None = None

    def with_teacher(self) -> Session:
        """The same room with its teacher in it, with the weights of its file where there is one.

        Raises:
            KDError: the teacher does not fit the data, or its weights do not fit it.
        """
        name = self.settings.teacher
        if name is None:
            return self
        teacher = self._network(name, "teacher", self.settings.seed + TEACHER_SEED)
        teacher.announce()
        if self.settings.teacher_weights is not None:
            load_weights(teacher.module, self.settings.teacher_weights, f"the teacher '{name}'")
        return replace(self, teacher=teacher, lessons=FrozenTeacher(teacher.preprocessed, self.runtime))

    def for_seed(self, seed: int) -> Session:
        """The same room under another seed: other students, other batches, the same teacher."""
        if seed == self.settings.seed:
            return self
        settings, source = self.settings.model_copy(update={"seed": seed}), self.source
        if source.data is not None:
            made = DataModule.of_data(source.data, settings, self.runtime.device)
            source = made.shared(self.runtime.rank, self.runtime.processes)
        return replace(self, settings=settings, source=source)

    def student(self) -> Network:
        """The student that was given, or a new one with the weights that the seed decides."""
        return self._network(self.settings.student, "student", self.settings.seed)

    def twin(self) -> Network:
        """One more student with the same weights as :meth:`student` has before it is trained."""
        given = {role: copy.deepcopy(module) for role, module in self.given.items() if role == "student"}
        return replace(self, given=given).student()

    def lane(self, name: str, student: Network, distillers: Mapping[str, Distiller]) -> Lane:
        """A lane for a student, ready to train.

        Raises:
            KDError: the methods do not fit the networks, or each other.
        """
        source, settings = self.source, self.settings
        kinds: dict[str, str | nn.Module] = {"student": self.given.get("student", settings.student)}
        if settings.teacher is not None:
            kinds["teacher"] = self.given.get("teacher", settings.teacher)
        preprocess = {"student": student.preprocess, **({} if self.teacher is None else {"teacher": self.teacher.preprocess})}
        maker = NetworkFactory(kinds, source.num_classes, source.images, self.registry, settings.seed + 1, preprocess)
        context = LaneContext(student, self.teacher, source.num_classes, source.num_samples, source.input_size, maker)
        return make_lane(name, context, distillers, settings, self.runtime, len(source.train), self.lessons)

    def ready_teacher(self, needed: bool, train: Callable[[Settings, Path], None]) -> dict[str, Any] | None:
        """Give the teacher its weights where it has none, measure it, and say what is known of it.

        Args:
            needed: whether any lane learns from it.
            train: trains a network by its settings into a folder.

        Raises:
            ModelError: it has no weights, and cannot be trained here.
        """
        if self.teacher is None:
            return None
        module = self.teacher.module
        if "teacher" in self.given or self.settings.teacher_weights is not None or self._brings_weights(self.teacher.name):
            log.info("Measuring the teacher %s", self.teacher.name)
            accuracy = evaluate(self.teacher.preprocessed, self.source.test, self.runtime)
            facts: dict[str, Any] = {"top1": accuracy["top1"], "best_top1": accuracy["top1"], "top5": accuracy["top5"]}
        elif needed:
            facts = dict(self._cached_teacher(self.teacher, train))
        else:
            log.info("The teacher %s is not trained first: nothing here learns from its weights", self.teacher.name)
            facts = {"top1": None, "best_top1": None}
        sizes = {"parameters": count_parameters(module), "flops": count_flops(module, self.teacher.input_size)}
        marks = {"fingerprint": fingerprint(module), "input": self.teacher.preprocess.wanted.describe()}
        return {"name": self.teacher.name, **facts, **sizes, **marks}

    def _cached_teacher(self, teacher: Network, train: Callable[[Settings, Path], None]) -> Mapping[str, Any]:
        if self.source.data is None:
            raise ModelError(
                f"The teacher '{teacher.name}' has no weights, and with loaders of your own it cannot be trained for you. "
                "Give teacher_weights, or a trained module."
            )
        ours = self.settings
        own = {"seed": ours.seed, "train": ours.teacher_training, "student_input": ours.teacher_input}
        settings = Settings(student=teacher.name, data=ours.data, **own)
        cached = CachedTeacher(settings, self.source.data, self.runtime.precision, teacher.preprocess)
        return cached.fetch(teacher.module, lambda folder: train(settings, folder))

    def _network(self, name: str, role: str, seed: int) -> Network:
        if role not in self.given and name.startswith("module:"):
            raise ModelError(f"'{name}' was a module of the caller's own; only a run of named networks can be repeated.")
        said = {"teacher": self.settings.teacher_input, "student": self.settings.student_input}[role]
        weights = self.settings.teacher_weights if role == "teacher" else None
        preprocess = preprocess_for(self.given.get(role, name), self.source.images, said, f"{role}_input", weights)
        made = self.given[role] if role in self.given else self._model_source(name, preprocess.wanted.size).create(seed)
        return Network.probed(name, Preprocessed(preprocess, made), self.source.input_size, self.source.num_classes)

    def _model_source(self, name: str, size: tuple[int, int, int]) -> ModelSource:
        return ModelSource(name, self.source.num_classes, size, self.registry)

    def _brings_weights(self, name: str) -> bool:
        return self._model_source(name, self.source.input_size).brings_weights
