"""Steps on a device that works behind the host: the same numbers, no waiting, and the same end where they are not finite."""

import math

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from kdengine import Distiller, Engine, TrainingError
from kdengine.config.settings import TrainSettings
from kdengine.plugins.groups import expanded
from kdengine.tasks import Classification
from kdengine.testing import tiny_pair
from kdengine.testing.bench import Bench, installed
from kdengine.training import optimizer, runtime
from kdengine.training.lane_module import LaneModule
from kdengine.training.updater import OptimizerStep, Outcome

FAST = {"data": "digits@train=32@test=16", "precision": "fp32", "device": "cpu", "batch_size": 8, "epochs": 2}
STEPS = 8
WAITING = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default, torch.ops.aten.equal.default}
"""What needs a number of the device on the host."""


@pytest.fixture
def behind(monkeypatch):
    """Treat the CPU as a device that works behind the host, from when it is called."""
    return lambda: monkeypatch.setattr(runtime, "ASYNCHRONOUS", {"cpu"})


class Failing(Distiller):
    """Not finite in one step: its value, or its gradient alone."""

    name = "failing"

    class Options(Distiller.Options):
        at: int = 3
        gradient: bool = False

    def forward(self, step):
        logits = step.student.logits
        terms = {"fine": logits.square().mean(), "worm": logits.mean()}
        if round(step.progress * STEPS) == self.options.at - 1:
            worm = (logits - logits).square().sum().sqrt() if self.options.gradient else logits.mean() * torch.nan
            terms["worm"] = worm
        return terms


def copied(module):
    return {name: value.detach().clone() for name, value in module.named_parameters()}


class Waits(TorchDispatchMode):
    """Counts what waits for the device."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in WAITING:
            self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


def student():
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.Flatten(), nn.Dropout(0.2), nn.LazyLinear(10))


def trained(plugins, out, **settings):
    made = student()
    made(torch.zeros(2, 3, 32, 32))
    result = Engine(tiny_pair()[0], made, plugins, out=out, **{**FAST, **settings}).fit()
    return result, made.state_dict()


TIMES = ("seconds", "images_per_second")


@pytest.mark.parametrize(
    "settings",
    [{}, {"accumulate": 3, "clip_grad": 0.5, "ema": 0.9}, {"optimizer": "adamw", "lr": 1e-3}],
    ids=["sgd", "accumulated, clipped, averaged", "adamw"],
)
def test_an_undisturbed_run_is_bit_identical(settings, tmp_path, behind):
    one, weights = trained(["st"], tmp_path / "at once", **settings)
    behind()
    other, later = trained(["st"], tmp_path / "behind", **settings)
    assert all(torch.equal(weights[name], later[name]) for name in weights)
    rows = [[{k: v for k, v in row.items() if k not in TIMES} for row in result.history] for result in (one, other)]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("at", [3, 4])  # in the middle of an epoch, and in its last step
def test_a_step_that_is_not_finite_ends_with_the_same_name_step_and_weights(at, gradient, tmp_path, behind):
    ends = []
    for name in ("at once", "behind"):
        made = student()
        made(torch.zeros(2, 3, 32, 32))
        method = Failing(at=at, gradient=gradient)
        with pytest.raises(TrainingError) as caught:
            Engine(tiny_pair()[0], made, [method], out=tmp_path / name, **FAST).fit()
        ends.append((str(caught.value).partition(" (at ")[0], made.state_dict()))
        behind()
    (message, weights), (other, later) = ends
    assert message == other
    assert f"failing, epoch 1, step {at}: " in message
    assert "failing.worm" in message
    assert all(torch.equal(weights[name], later[name]) for name in weights)


def waits_of(method):
    """What waits in the steps of all phases of a method, but for the first steps, which may look at the data."""
    bench, seen = Bench(method, tiny_pair()), []
    for lane in bench.phases():
        bench.step(bench.batch(8))
        with Waits() as waits:
            for seed in (1, 2):
                bench.step(bench.batch(8, seed))
        seen += waits.seen
        assert lane.settle()
    return seen


@pytest.mark.parametrize("method", [None, "st", "rkd", "at", "fitnet", "dist"])
def test_no_step_waits_for_the_device(method, behind):
    behind()
    assert waits_of(method) == []


ASKING = {"dkd", "nkd", "ofa-kd", "phi-s"}
"""one_hot looks at its classes on a CPU, though not on a GPU; phi-s counts the batches that it gathers statistics of."""


@pytest.mark.slow
@pytest.mark.parametrize("method", sorted(set(expanded(["all"], installed())) - ASKING))
def test_no_step_of_any_method_waits_for_the_device(method, behind):
    behind()
    assert waits_of(method) == []


def test_where_the_device_does_not_work_behind_a_step_asks_at_once():
    bench = Bench("st", tiny_pair())
    bench.lane.begin_epoch()
    with Waits() as waits:
        bench.step(bench.batch(8))
    assert waits.seen, "or this test could not fail"


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_in_fp16_what_is_too_large_is_skipped_on_the_device_and_a_hopeless_scale_ends_the_lane(name, behind, monkeypatch):
    """A fused optimizer takes the scaler's word for it, and never asks the device."""
    behind()
    monkeypatch.setattr(optimizer, "KERNELS", {"cpu": "fused"})
    torch.manual_seed(0)
    module = LaneModule(nn.Linear(2, 2, bias=False), {}, Classification(2))
    updater = OptimizerStep(module, TrainSettings(optimizer=name, lr=0.1), runtime.Runtime("cpu", "fp16", alone=True))
    before, scale = copied(module), updater.state_dict()["scaler"]["scale"]

    def infinite():
        return {"task": (module.student(torch.ones(1, 2)) * 0).sum().sqrt()}  # finite, but not its gradient

    with Waits() as waits:
        assert updater.update(infinite(), 0, 0) is Outcome.UPDATED
    assert waits.seen == []
    assert updater.verdict().is_fine
    assert updater.state_dict()["scaler"]["scale"] == scale / 2
    assert all(torch.equal(value, before[name]) for name, value in module.named_parameters())
    updater.update({"task": module.student(torch.ones(1, 2)).square().sum()}, 1, 0)
    assert updater.verdict().is_fine
    moved = copied(module)
    assert all(bool(value.isfinite().all()) and not torch.equal(value, before[name]) for name, value in moved.items())
    for done in range(2, int(math.log2(scale)) + 4):
        updater.update(infinite(), done, 0)
    assert not updater.verdict().is_fine
    updater.update({"task": module.student(torch.ones(1, 2)).square().sum()}, 0, 0)
    assert all(torch.equal(value, moved[name]) for name, value in module.named_parameters())
