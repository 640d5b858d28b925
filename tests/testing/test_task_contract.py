"""Every check of the contract of tasks fails for a task with the fault that it is there for, and for no good task."""

import pytest
import torch
from torchmetrics import MeanAbsoluteError, MetricCollection

from kdengine import DataError, KDError, Measure, ModelError, Scoring, Task
from kdengine.tasks import BUILT_IN
from kdengine.testing import TaskContract

CHECKS = [name for name in dir(TaskContract) if name.startswith("test_")]


class Error(MeanAbsoluteError):
    def update(self, output, target):
        if target is not None:
            super().update(output[:, 0].contiguous(), target.float())


class Good(Task):
    name = "good"
    outputs = "numbers"
    scoring = Scoring("good", (Measure("mae", "MAE", higher_is_better=False),))
    num_outputs = 1

    @classmethod
    def of(cls, data, train):
        return cls()

    def check(self, output, target=None, owner="The network"):
        if output.shape != (len(output), 1):
            raise ModelError(f"'{owner}' returns {list(output.shape)}.")
        if target is not None and target.shape != (len(output),):
            raise DataError(f"The targets are {list(target.shape)}.")

    def loss(self, output, target):
        return None if target is None else (output[:, 0] - target).square().mean()

    def metrics(self):
        return MetricCollection({"mae": Error()}, compute_groups=False)


class Strict(Good):
    def check(self, output, target=None, owner="The network"):
        super().check(output, target, owner)
        if target is not None and not target.is_floating_point():
            raise DataError("Integers are refused.")


class ReadingValues(Good):
    def check(self, output, target=None, owner="The network"):
        super().check(output, target, owner)
        assert float(output.sum()) < 1e9


class AnyOutput(Good):
    def check(self, output, target=None, owner="The network"):
        return


class Nameless(Good):
    def check(self, output, target=None, owner="The network"):
        super().check(output, target)


class AnyTarget(Good):
    def check(self, output, target=None, owner="The network"):
        super().check(output, None, owner)


class Unreduced(Good):
    def loss(self, output, target):
        return None if target is None else (output[:, 0] - target).square()


class Detached(Good):
    def loss(self, output, target):
        return None if target is None else (output.detach()[:, 0] - target).square().mean()


class Undefined(Good):
    def loss(self, output, target):
        return None if target is None else (output[:, 0] - target).square().mean() / (len(output) - 1)


class NeedingTargets(Good):
    def loss(self, output, target):
        return (output[:, 0] - target).square().mean()


class Misnamed(Good):
    def metrics(self):
        return MetricCollection({"error": Error()}, compute_groups=False)


class LastBatch(Error):
    """Keeps the last batch only."""

    def update(self, output, target):
        self.reset()
        super().update(output, target)


class OfTheLastBatch(Good):
    def metrics(self):
        return MetricCollection({"mae": LastBatch()}, compute_groups=False)


class Averaged(Error):
    """A state that processes average although it is a sum."""

    full_state_update = False

    def __init__(self):
        super().__init__()
        self.add_state("sum_abs_error", torch.zeros(()), dist_reduce_fx="mean")


class AveragedOverProcesses(Good):
    def metrics(self):
        return MetricCollection({"mae": Averaged()}, compute_groups=False)


class Unmeasured(Good):
    """Nothing measures what its scoring has."""

    scoring = Scoring("good", (Measure("mae", "MAE"), Measure("missing", "missing")))


FAULTS = [
    (Strict, "valid_outputs_and_targets_are_accepted"),
    (ReadingValues, "valid_outputs_and_targets_are_accepted"),
    (AnyOutput, "outputs_of_a_wrong_shape_are_refused"),
    (Nameless, "outputs_of_a_wrong_shape_are_refused"),
    (AnyTarget, "targets_of_a_wrong_shape_are_refused"),
    (Unreduced, "the_loss_is_a_finite_scalar_that_teaches"),
    (Detached, "the_loss_is_a_finite_scalar_that_teaches"),
    (Undefined, "the_loss_is_a_finite_scalar_that_teaches"),
    (NeedingTargets, "without_targets_there_is_no_loss"),
    (Misnamed, "metrics_are_named_in_scoring"),
    (OfTheLastBatch, "metrics_do_not_depend_on_the_size_of_batches"),
    (AveragedOverProcesses, "metrics_of_several_processes_add_up"),
    (Unmeasured, "a_network_is_trained_for_it"),
]


def contract_of(kind):
    return type("Contract", (TaskContract,), {"task": kind})()


@pytest.mark.parametrize(("kind", "check"), FAULTS, ids=lambda value: getattr(value, "__name__", value))
def test_a_planted_fault_is_found(kind, check):
    with pytest.raises((AssertionError, KDError, RuntimeError, TypeError)):
        getattr(contract_of(kind), f"test_{check}")()


def test_every_check_has_a_fault_that_it_finds():
    assert {f"test_{check}" for _, check in FAULTS} == set(CHECKS)


@pytest.mark.parametrize("check", CHECKS)
def test_a_good_task_passes(check):
    getattr(contract_of(Good), check)()


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_built_in_tasks_pass_by_their_names(name):
    for check in CHECKS:
        getattr(contract_of(name), check)()
