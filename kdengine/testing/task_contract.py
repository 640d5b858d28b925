"""The contract of a task, as a test class to inherit."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection

from kdengine.config.settings import TrainSettings
from kdengine.errors import DataError, KDError, ModelError
from kdengine.plugins.registry import Registry
from kdengine.tasks.task import Task
from kdengine.testing.bench import installed
from kdengine.testing.networks import tiny_pair
from kdengine.testing.small_run import noise, small_run
from kdengine.training.metrics import computed, update

__all__ = ["TaskContract"]

CLASSES = 10
SIDE = 32
COUNT = 12
"""Images in a batch: more than there are classes, so that every class occurs."""


class TaskContract:
    """What every task must satisfy, on random outputs and targets and in a run of two epochs.

    Inherit from it, and pytest runs every check::

        class TestAge(TaskContract):
            task = "age"

    Override :meth:`targets`, :meth:`output` or :meth:`network` if the task needs others.

    Attributes:
        task: the name of an installed task, or its class.
    """

    task: ClassVar[str | type[Task]]

    @property
    def kind(self) -> type[Task]:
        """The class of the task."""
        return installed().task(self.task) if isinstance(self.task, str) else self.task

    def made(self) -> Task:
        """The task, made for noise images of 10 classes."""
        return self.kind.of(noise(self.targets(COUNT), CLASSES, self.kind.name), TrainSettings())

    def targets(self, count: int, seed: int = 0) -> Tensor:
        """Valid targets of B images: [B], the classes; 0 and 1, [B, 10], for ``labels``; masks [B, 32, 32] for ``pixels``."""
        generator = torch.Generator().manual_seed(seed)
        if self.kind.outputs == "labels":
            return torch.randint(2, (count, CLASSES), generator=generator).float()
        if self.kind.outputs == "pixels":
            return torch.randint(CLASSES, (count, SIDE, SIDE), generator=generator)
        return (torch.arange(count) + seed) % CLASSES

    def output(self, count: int, seed: int = 0) -> Tensor:
        """A valid output of a network for B images: [B, K], [B, K, 32, 32] for ``pixels``, [B, 10] for an embedding."""
        shape = (SIDE, SIDE) if self.kind.outputs == "pixels" else ()
        width = self.made().num_outputs or CLASSES
        return torch.randn(count, width, *shape, generator=torch.Generator().manual_seed(seed))

    def network(self) -> nn.Module:
        """A network with the outputs of the task, for images [B, 3, 32, 32]."""
        outputs = self.made().num_outputs
        return nn.Conv2d(3, outputs, 1) if self.kind.outputs == "pixels" else tiny_pair(outputs)[1]

    def test_valid_outputs_and_targets_are_accepted(self) -> None:
        """``check`` accepts them, and outputs on the meta device too, where networks are probed."""
        task, output, targets = self.made(), self.output(COUNT), self.targets(COUNT)
        try:
            task.check(output)
            task.check(output.to("meta"))
            task.check(output, targets)
        except KDError as error:
            raise AssertionError(f"check refuses what should be valid (override output or targets if not): {error}") from error

    def test_outputs_of_a_wrong_shape_are_refused(self) -> None:
        """``check`` raises a ``ModelError`` that names the network."""
        task, output = self.made(), self.output(COUNT)
        wrong = {"two more dimensions": output[..., None, None], "no outputs": output[:, :0]}
        for what, tensor in wrong.items():
            message = None
            try:
                task.check(tensor, owner="the student")
            except ModelError as error:
                message = str(error)
            assert message is not None, f"check accepts an output with {what}, {list(tensor.shape)}: raise a ModelError"
            assert "the student" in message, f"the error for an output with {what} does not name its owner: {message}"

    def test_targets_of_a_wrong_shape_are_refused(self) -> None:
        """``check`` raises a ``DataError`` for fewer targets than images, unless the task takes none."""
        task, targets = self.made(), self.targets(COUNT)
        if self.kind.measured_by_teacher:
            return
        try:
            task.check(self.output(COUNT), targets[..., None][: COUNT - 1])
        except DataError:
            return
        raise AssertionError(f"check accepts targets {list(targets[..., None][: COUNT - 1].shape)} of {COUNT} images")

    def test_the_loss_is_a_finite_scalar_that_teaches(self) -> None:
        """It has a gradient for the output; for a batch of one image too."""
        for count in (COUNT, 1):
            output = self.output(count).requires_grad_()
            loss = self.made().loss(output, self.targets(count))
            if loss is None:
                assert self.kind.measured_by_teacher, "the loss is None although there are targets"
                return
            assert loss.shape == (), f"the loss is {list(loss.shape)}, not a scalar []"
            assert torch.isfinite(loss), f"the loss of {count} images is {float(loss.detach())}"
            assert loss.requires_grad, "the loss does not depend on the output: it is detached"
            (slope,) = torch.autograd.grad(loss, output)
            assert torch.isfinite(slope).all(), f"the gradient of the loss of {count} images is not finite"
            assert slope.any(), f"the gradient of the loss of {count} images is 0 everywhere"

    def test_without_targets_there_is_no_loss(self) -> None:
        """``loss(output, None)`` is None, and metrics ignore such a batch."""
        task = self.made()
        assert task.loss(self.output(COUNT), None) is None, "loss(output, None) must be None"
        metrics = self._seen([COUNT])
        before = computed(metrics)
        update(metrics, self.output(COUNT, seed=1), None)
        _check_close(before, computed(metrics), "after a batch without targets")

    def test_metrics_are_named_in_scoring(self) -> None:
        """``metrics`` has the measures of ``scoring``, and nothing else; each gives a number."""
        task = self.made()
        named, measured = [measure.name for measure in task.scoring.measures], self._seen([COUNT])
        assert set(named) == set(measured), f"scoring has {named}, but metrics() has {list(measured)}"
        values = computed(measured)
        assert all(map(math.isfinite, values.values())), f"the metrics of {COUNT} images are {values}"
        assert set(task.training_metrics()) <= set(named), "training_metrics() has a measure that scoring does not have"

    def test_metrics_do_not_depend_on_the_size_of_batches(self) -> None:
        """In one batch, or in several of different sizes, they are the same."""
        _check_close(computed(self._seen([COUNT])), computed(self._seen([5, 1, COUNT - 6])), "of batches of 5, 1 and 6 images")

    def test_metrics_of_several_processes_add_up(self) -> None:
        """What two processes saw, put together by ``dist_reduce_fx``, is what one would have seen."""
        one, other = self._seen([COUNT - 7]), self._seen([7], first=COUNT - 7)
        for name, metric in one.items():
            metric.merge_state(other[name])
        _check_close(computed(self._seen([COUNT])), computed(one), "of two processes, put together")

    def test_a_network_is_trained_for_it(self) -> None:
        """A run of two epochs measures every epoch."""
        if self.kind.measured_by_teacher:
            return
        with tempfile.TemporaryDirectory() as folder:
            data = noise(self.targets(48), CLASSES, self.kind.name)
            result = small_run(Path(folder) / "run", self.network(), data, _Offering(self.kind))
            names = [f"test_{measure.name}" for measure in self.kind.scoring.measures]
            for row in result.history:
                missing = [name for name in names if not math.isfinite(row.get(name, math.nan))]
                assert not missing, f"epoch {row['epoch']} has no finite {', '.join(missing)}"

    def _seen(self, counts: list[int], first: int = 0) -> MetricCollection:
        """The metrics after batches of these sizes, which begin at one of the images."""
        metrics = self.made().metrics()
        output, targets = self.output(COUNT), self.targets(COUNT)
        targets = self.output(COUNT, seed=2) if self.kind.measured_by_teacher else targets
        for count in counts:
            update(metrics, output[first : first + count], targets[first : first + count])
            first += count
        return metrics


class _Offering(Registry):
    """A registry that knows one more task.

    Args:
        kind: the task.
    """

    def __init__(self, kind: type[Task]) -> None:
        super().__init__()
        self.kind = kind

    def task(self, name: str) -> type[Task]:
        """This task, or another one by its name."""
        return self.kind if name == self.kind.name else super().task(name)


def _check_close(expected: Mapping[str, float], found: Mapping[str, float], when: str) -> None:
    for name, value in expected.items():
        close = math.isclose(found[name], value, rel_tol=1e-4, abs_tol=1e-6)
        assert close, f"{name} is {found[name]:.6g} {when}, but {value:.6g} of all images at once: accumulate sums and counts"
