import os
import signal
import threading

import pytest
import torch
from safetensors.torch import load_file

from kdengine import Engine, hookimpl
from kdengine.storage.runfolder import RunFolder
from kdengine.training.signals import Stop, Stopped, listening

BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
FAST = {"data": "digits@train=24@test=16", "precision": "fp32", "device": "cpu", "batch_size": 8, "lr": 0.02, "epochs": 2}


@BOTH
def test_a_first_signal_asks_and_a_second_one_ends_at_once(number, unheard_signals):
    with listening() as stop:
        stop.check()
        os.kill(os.getpid(), number)
        with pytest.raises(Stopped):
            stop.check()
        with pytest.raises(KeyboardInterrupt) as caught:
            signal.raise_signal(number)
    assert caught.type is KeyboardInterrupt
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_who_listens_already_is_left_alone(unheard_signals):
    heard = []
    signal.signal(signal.SIGTERM, lambda *_: heard.append(1))
    with listening() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        stop.check()
    assert heard == [1]


def test_threads_cannot_listen_and_need_not():
    found = []

    def other():
        with listening() as stop:
            found.append(stop.asked)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert found == [False]


class Signal:
    """Sends this process a signal at some step of the second epoch."""

    def __init__(self, number, step):
        self.number, self.step = number, step

    @hookimpl
    def kdengine_after_step(self, run, done):
        if run.settings.teacher and len(run.lane.history) == 1 and done == self.step:
            os.kill(os.getpid(), self.number)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return Engine("resnet14", "resnet8@drop_rate=0.5", ["st"], out=tmp_path_factory.mktemp("whole") / "run", **FAST).fit()


@pytest.mark.sample(1)
@BOTH
@pytest.mark.parametrize("step", [1, 3], ids=["in-an-epoch", "at-its-end"])
def test_a_run_that_is_stopped_goes_on_after_that_step_and_ends_as_if_nothing_had_happened(
    number, step, unheard_signals, tmp_path, undisturbed
):
    out, observer = tmp_path / "run", Signal(number, step)
    with pytest.raises(Stopped):
        Engine("resnet14", "resnet8@drop_rate=0.5", ["st"], out=out, observers=[observer], **FAST).fit()
    state = RunFolder(out).load_state()
    assert (len(state["history"]), state["meter"]["steps"]) == (1, step)
    result = Engine.resume(out).fit()
    assert [row["terms"] for row in result.history] == [row["terms"] for row in undisturbed.history]
    for name in ("student.safetensors", "student-best.safetensors"):
        one, other = load_file(out / name), load_file(undisturbed.folder / name)
        assert all(torch.equal(one[key], other[key]) for key in other)
    assert not (out / "state").exists()


def test_measuring_is_stopped_too(tmp_path, undisturbed):
    from kdengine.data.batches import Batch
    from kdengine.tasks import Classification
    from kdengine.training.evaluation import evaluate
    from kdengine.training.runtime import Runtime

    class Batches:
        def epoch(self, number, start=0):
            yield Batch(torch.zeros(2, 3, 32, 32), torch.zeros(2, dtype=torch.long), torch.arange(2))

    stop = Stop()
    stop.asked = True
    model = undisturbed.student.train()
    with pytest.raises(Stopped):
        evaluate(model, Batches(), Classification(10), Runtime("cpu", "fp32"), stop.check)
    assert model.training
