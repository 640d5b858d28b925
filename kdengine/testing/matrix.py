"""Check whether methods train on a pair of networks: one step, with real tensors or on the meta device."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

import timm
import torch
from torch import Tensor, nn

from kdengine.config.settings import Settings
from kdengine.config.specs import Spec
from kdengine.data.batches import Batch
from kdengine.data.datamodule import DataModule
from kdengine.errors import KDError, ModelError
from kdengine.methods.distiller import Distiller
from kdengine.networks.models import ModelSource
from kdengine.networks.network import Network
from kdengine.plugins.registry import Registry
from kdengine.plugins.selection import choose_distillers
from kdengine.runs.session import Session
from kdengine.runs.teachers import Named, Teacher
from kdengine.tasks import Classification
from kdengine.tasks.task import Task
from kdengine.testing.bench import grey
from kdengine.training.runtime import Runtime
from kdengine.training.teacher import FrozenTeacher
from kdengine.training.trainer import ask_teachers

__all__ = ["SIDES", "Pairing", "make_network", "smallest_network"]

CLASSES = 10
TASK = Classification(CLASSES)
BATCH = 4
SIDES = (64, 96, 128, 224, 256, 384)
"""Image sides to try, in order; a transformer with 16 x 16 patches accepts all of them."""


class MetaRuntime(Runtime):
    """Runs networks on the meta device, where tensors have shapes but no values."""

    def __init__(self) -> None:
        super().__init__("cpu", "fp32", channels_last=False, alone=True)
        self.device = torch.device("meta")

    def total(self, value: Tensor | float) -> float:
        """The value, or 0 for a meta tensor."""
        return 0.0 if isinstance(value, Tensor) and value.is_meta else float(value)

    def setup(self, module: nn.Module) -> Any:
        """Return the module unchanged."""
        return module

    def setup_optimizer(self, optimizer: torch.optim.Optimizer) -> Any:
        """Return the optimizer unchanged."""
        return optimizer

    def autocast(self) -> Any:
        """No autocast."""
        return nullcontext()

    def backward(self, loss: Tensor, retain_graph: bool = False) -> None:
        """Compute the gradients of a loss []; they are meta tensors too."""
        torch.autograd.backward(loss, retain_graph=retain_graph)


def make_network(spec: str, side: int, meta: bool = True, task: Task = TASK) -> Network:
    """Build a network as a run does, for images [3, side, side] and the 10 classes of a task.

    Raises:
        KDError: the network cannot be built for images of this size.
    """
    with _device(meta):
        model = ModelSource(spec, task.network_options(), (3, side, side), Registry()).create(0)
    return Network.probed(spec, model, (3, side, side), task)


def smallest_network(spec: str, meta: bool = True) -> tuple[Network, int]:
    """Build a network for the smallest images that it accepts, and return it with their side.

    The side is one of ``SIDES``, or the network's native one.

    Raises:
        KDError: the network accepts none of them.
    """
    config = timm.get_pretrained_cfg(Spec.parse(spec, ModelError).name)
    native = config.input_size[-1] if config is not None else SIDES[-1]
    for side in SIDES:
        with suppress(KDError):
            return make_network(spec, side, meta), side
    return make_network(spec, native, meta), native


class Pairing:
    """A teacher and a student to try methods on.

    Args:
        teacher: the network to learn from.
        student: the network to train; its weights are restored after every attempt.
        side: side of the images.
        meta: whether the networks are on the meta device.
        precision: of the real steps, ``fp32`` or ``bf16``; on the meta device there is none.
        task: of 10 classes, of images or of pixels.
    """

    def __init__(
        self,
        teacher: Network,
        student: Network,
        side: int,
        meta: bool = True,
        precision: str = "fp32",
        task: Task = TASK,
    ) -> None:
        self.meta, self.task = meta, task
        self.size = (3, side, side)
        self.runtime = MetaRuntime() if meta else Runtime("cpu", precision, channels_last=False, alone=True)
        self.teacher, self.student = teacher, student
        self._weights = copy.deepcopy(student.module.state_dict())

    def attempt(self, *methods: str | Distiller) -> str | None:
        """Build methods with default options in one lane, and take a step in each of its phases.

        Returns:
            None on success, else the reason: the message of a ``KDError``, or type and message of any other error.
        """
        try:
            self._train(methods)
        except KDError as error:
            return str(error)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        finally:
            self.student.module.load_state_dict(self._weights)
        return None

    def attempts(self, *methods: str) -> dict[str, str | None]:
        """:meth:`attempt` for each method by name; all are tried in one lane, and in halves only if that fails."""
        why = self.attempt(*methods)
        if why is None or len(methods) == 1:
            return dict.fromkeys(methods, why)
        half = len(methods) // 2
        return {**self.attempts(*methods[:half]), **self.attempts(*methods[half:])}

    def _train(self, methods: Sequence[str | Distiller]) -> None:
        train: dict[str, Any] = {"epochs": 1, "lr": 1e-4, "batch_size": 32}
        train |= {"device": "cpu", "precision": self.runtime.precision, "channels_last": False}
        settings = Settings.checked({"student": "module:student", "teacher": "module:teacher", "train": train})
        registry, modules = Registry(), {"student": self.student.module, "teacher": self.teacher.module}
        data = DataModule.of_data(grey(self.size, CLASSES), settings, self.runtime.device)
        teacher = Teacher(Named("teacher", "module"), self.teacher, FrozenTeacher(self.teacher.module, self.runtime))
        session = Session(settings, registry, self.runtime, data, self.task, modules, teachers=(teacher,))
        lane = session.lane("matrix", self.student, choose_distillers(methods, {}, registry))
        batch = self._batch()
        while not lane.finished:
            lane.begin_epoch()
            lane.step(batch, ask_teachers([lane], batch))
            lane.end_epoch({})

    def _batch(self) -> Batch:
        images, view = torch.randn(2, BATCH, *self.size, generator=torch.Generator().manual_seed(0))
        indices = torch.arange(BATCH)
        images, labels, index, view = (tensor.to(self.runtime.device) for tensor in (images, indices % CLASSES, indices, view))
        if self.task.outputs == "pixels":
            labels = labels[:, None, None].expand(-1, *self.size[1:]).contiguous()
        return Batch(images, labels, index, (view,))


def _device(meta: bool) -> AbstractContextManager[Any]:
    return torch.device("meta") if meta else nullcontext()
