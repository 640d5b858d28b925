"""Real processes, forked from this one so that they need not import anything."""

import multiprocessing
import os
import traceback
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch import nn

from kdengine import SettingsError
from kdengine.data.batches import Batch
from kdengine.runs.whole_state import processes_of, state_of_rank, whole_state
from kdengine.tasks import Classification
from kdengine.training import signals
from kdengine.training.evaluation import evaluate
from kdengine.training.peers import Peers
from kdengine.training.runtime import Runtime
from kdengine.training.signals import Stop, Stopped


def in_two(work, folder):
    """What ``work(rank)`` returns in each of two processes."""
    context = multiprocessing.get_context("fork")

    def child(rank, pipe):
        torch.set_num_threads(1)  # those of the parent are not there
        try:
            dist.init_process_group("gloo", store=dist.FileStore(str(folder / "store"), 2), rank=rank, world_size=2)
            pipe.send((work(rank), None))
        except BaseException:
            pipe.send((None, traceback.format_exc()))
        pipe.close()
        os._exit(0)

    pipes = [context.Pipe() for _ in range(2)]
    children = [context.Process(target=child, args=(rank, pipe[1]), daemon=True) for rank, pipe in enumerate(pipes)]
    for process in children:
        process.start()
    try:
        answers = [pipe[0].recv() if pipe[0].poll(60) else (None, "no answer") for pipe in pipes]
    finally:
        for process in children:
            process.kill()
    assert all(fault is None for _, fault in answers), answers
    return [answer for answer, _ in answers]


def runtime(rank):
    """One of two processes, without Fabric, whose forks would need a launcher."""
    made = Runtime("cpu", "fp32", alone=True)
    made.processes, made.rank, made.peers = 2, rank, Peers()
    return made


def test_all_are_told_at_the_same_step_that_one_was_asked_and_what_time_it_is(tmp_path):
    def work(rank):
        peers = Peers()
        return [(peers.agree(rank == 1 and step >= 2), peers.seconds) for step in range(5)]

    first, second = in_two(work, tmp_path)
    assert first == second
    assert [asked for asked, _ in first] == [False, False, False, True, True]
    assert first[0][1] == 0.0 < first[1][1] < first[4][1]


def test_a_signal_to_one_stops_all_after_the_same_step(tmp_path):
    def work(rank):
        stop, steps = Stop(Peers()), 0
        try:
            for steps in range(1, 100):
                if (rank, steps) == (1, 7):
                    stop.ask(15, None)
                stop.check()
        except Stopped:
            return steps
        return None

    assert in_two(work, tmp_path) == [8, 8]


def test_a_signal_that_comes_twice_at_once_counts_once_only_where_launchers_pass_signals_on(monkeypatch):
    shared, alone = Stop(SimpleNamespace()), Stop()
    for stop in (shared, shared, alone):
        stop.ask(15, None)
    with pytest.raises(KeyboardInterrupt):
        alone.ask(15, None)
    monkeypatch.setattr(signals, "ECHO", 0.0)
    with pytest.raises(KeyboardInterrupt):
        shared.ask(15, None)


def test_what_the_first_process_refuses_all_refuse(tmp_path):
    def refuse():
        raise SettingsError("in use")

    def work(rank):
        made, asked = runtime(rank), []
        value = made.from_first(lambda: asked.append(1) or "opened")
        try:
            made.from_first(refuse)
        except SettingsError as error:
            return value, len(asked), str(error)
        return None

    assert in_two(work, tmp_path) == [("opened", 1, "in use"), ("opened", 0, "in use")]


def state_of(rank):
    """A state that is partly the same in all processes, and partly not, wherever that lies."""
    return {
        "modules": [{"weight": torch.ones(2, 2), "mean": torch.full((2,), float(rank)), "count": torch.tensor(rank)}],
        "random": {"torch": [torch.arange(4) + rank], "python": [3, [1, 2, rank], None]},
        "optimizer": {"state": {0: {"momentum": torch.zeros(2)}}, "betas": (0.9, 0.1 * rank)},
        "average": None,
    }


def test_the_states_of_all_processes_are_one_and_each_gets_its_own_back(tmp_path):
    def work(rank):
        made = runtime(rank)
        saved = made.same(whole_state(SimpleNamespace(state_dict=lambda: state_of(rank), runtime=made)))
        parts = str(saved["other_processes"]) if rank == 0 else ""
        return processes_of(saved), parts, str(state_of_rank(saved, made))

    (count, parts, first), (_, _, second) = in_two(work, tmp_path)
    assert count == 2
    assert (first, second) == (str(state_of(0)), str(state_of(1)))
    assert "mean" in parts
    assert "weight" not in parts, "what is the same is saved once"


class Numbered:
    """Batches of so many images; image i shows i."""

    def __init__(self, sizes):
        self.sizes = sizes

    def __len__(self):
        return len(self.sizes)

    def epoch(self, number, start=0):
        for part in torch.arange(sum(self.sizes)).split(self.sizes):
            yield Batch(part.float().view(-1, 1, 1, 1), part % 3, part)


class Guessing(nn.Module):
    """Right about two images of three."""

    def forward(self, x):
        return nn.functional.one_hot((x.flatten().long() * (x.flatten().long() % 5 != 0)) % 3, 3).float()


@pytest.mark.parametrize("sizes", [[4, 4, 4, 1], [3, 3, 2], [5]], ids=["even", "uneven", "fewer-than-processes"])
def test_processes_share_out_an_evaluation_and_count_every_image_once(sizes, tmp_path):
    def work(rank):
        made, checks = runtime(rank), []
        scores = evaluate(Guessing(), Numbered(sizes), Classification(3), made, lambda: checks.append(1), together=True)
        return scores, len(checks)

    alone = evaluate(Guessing(), Numbered(sizes), Classification(3), Runtime("cpu", "fp32", alone=True))
    (first, checks), (second, checks_of_second) = in_two(work, tmp_path)
    assert first == second == pytest.approx(alone)
    assert first["top1"] == alone["top1"]
    assert checks == checks_of_second, "or one would wait for the other"


def test_buffers_become_those_of_the_first_process(tmp_path):
    def work(rank):
        made, norm = runtime(rank), nn.BatchNorm2d(2)
        norm.running_mean += rank + 1
        made.take_first([norm.running_mean])
        return norm.running_mean.tolist()

    assert in_two(work, tmp_path) == [[1.0, 1.0], [1.0, 1.0]]
