"""Computes what tests/test_two_processes.py looks at: ``python two_processes.py FOLDER``.

Forks two processes that train together, and one that trains alone, so that torch is imported once. Each leaves its facts in
``FOLDER/NAME.pt``.
"""

import os
import shutil
import socket
import sys
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from kdengine import Distiller, Registry
from kdengine.config.settings import Settings
from kdengine.plugins.selection import choose_distillers
from kdengine.runs.session import Session
from kdengine.runs.teacher_store import TeacherStore
from kdengine.training.runtime import Runtime
from kdengine.training.signals import Stop
from kdengine.training.trainer import Trainer

DATA = "digits@train=90@test=32"
TRAIN = {"epochs": 1, "batch_size": 32, "device": "cpu", "precision": "fp32", "lr": 0.05, "augment": "none"}
STILL = {"lr": 1e-12, "weight_decay": 0.0}
REGISTRY = Registry()


class Still(nn.Module):
    """A network without batch normalisation, of which one process sees the same as two."""

    def __init__(self, seed, width):
        super().__init__()
        torch.manual_seed(seed)
        self.stage = nn.Sequential(nn.Conv2d(3, width, 3, stride=4), nn.ReLU())
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        return self.head(self.stage(x).mean((2, 3)))


class Careless(Distiller):
    """Keeps a mean of its own images, in a buffer."""

    name = "careless"

    def build(self, pair):
        self.register_buffer("mean", torch.zeros(10))

    def forward(self, step):
        self.mean.copy_(step.teacher.logits.mean(0))
        return {"loss": (step.student.logits - self.mean).square().mean()}


class Observer:
    def __init__(self):
        self.rows = []

    def after_step(self, lane, done, total):
        pass

    def after_epoch(self, lane, record):
        self.rows.append({name: value for name, value in record.items() if name.startswith("test_")})

    def ended(self, lane):
        lane.retire()


def session_of(store=None, modules=None, **train):
    networks = {"student": "module:student", "teacher": "module:teacher"} if modules else {}
    names = {"student": "resnet8", "teacher": "resnet8", **networks}
    stored = {} if store is None else {"teacher_store": {"folder": str(store)}}
    settings = Settings.checked({**names, **stored, "data": DATA, "train": {**TRAIN, **train}})
    return Session.open(settings, REGISTRY, modules=modules)


def lane_of(session, method=None, options=None):
    distillers = {} if method is None else choose_distillers([method], {method: options or {}}, REGISTRY)
    return session.lane("lane", session.student(), distillers)


def trained(session, lane):
    observer = Observer()
    Trainer([lane], session.data, observer, Stop()).fit()
    if lane.failure is not None:
        raise lane.failure
    return observer.rows


def state(module):
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def exchanged():
    runtime = Runtime("cpu", "fp32")
    rank, kinds = runtime.rank, (torch.float16, torch.float32, torch.float64)
    mean, first = ([torch.full((2,), 1.0 + rank, dtype=kind) for kind in kinds] for _ in range(2))
    runtime.average(mean)
    runtime.take_first(first)
    stacked = [runtime.stacked(torch.tensor([rank], dtype=kind)) for kind in (torch.bool, torch.int64, torch.float64)]
    return {"mean": mean, "first": first, "stacked": stacked}


def network():
    """One epoch with batch normalisation in the student and in a connector."""
    session = session_of(ema=0.9, **STILL)  # weights that stay, so that statistics are those of one process
    lane = lane_of(session, "fitnet")
    before = lane.student.state_dict()["bn1.running_mean"].clone()
    rows = trained(session, lane)
    connectors = {name: value for name, value in state(lane.module.distillers).items() if "running" in name}
    average = state(lane.deployment.average.network)
    return {"before": before, "rows": rows, "student": state(lane.student), "connectors": connectors, "average": average}


def banks():
    session = session_of(modules={"student": Still(0, 8), "teacher": Still(1, 12)}, **STILL)
    lane = lane_of(session, "crd", {"negatives": 16})
    trained(session, lane)
    return {name: value for name, value in state(lane.module.distillers).items() if ".banks." in name}


def careless():
    session = session_of()
    lane = session.lane("lane", session.student(), choose_distillers([Careless()], {}, REGISTRY))
    try:
        trained(session, lane)
    except Exception as error:
        return str(error)
    return ""


def accumulated(meets_always):
    """Gradients of an update of three batches, and how many messages with gradients there were in each step."""
    session = session_of(accumulate=3, modules={"student": Still(0, 8), "teacher": Still(1, 12)})
    lane = lane_of(session, "st")
    messages, steps, gradients = [], [], {}

    def hook(group, bucket):
        messages.append(bucket.index())
        return allreduce_hook(group, bucket)

    if session.runtime.processes > 1:
        lane._wrapped._forward_module.register_comm_hook(None, hook)
    if meets_always:
        session.runtime.adding_up = lambda wrapped, enabled: nullcontext()
    step = lane.step

    def counted(*given):
        step(*given)
        steps.append(len(messages))
        messages.clear()
        gradients.update({name: value.grad.clone() for name, value in lane.student.named_parameters()})

    lane.step = counted
    trained(session, lane)
    return {"steps": steps, "gradients": gradients}


def store(folder):
    """The same run without a store, filling one, with a full one, and with one of which a process has lost its share."""
    runs, rank = {}, 0
    for name in ("without", "filling", "full", "half"):
        session = session_of(None if name == "without" else folder)
        rank = session.runtime.rank
        lane, forwards = lane_of(session, "st"), []
        opened = TeacherStore.of(session)
        if opened is not None:
            opened.open(0)
        teacher = session.teachers[0].frozen
        recorded = teacher._recorded
        teacher._recorded = lambda *given, recorded=recorded, forwards=forwards: forwards.append(1) or recorded(*given)
        rows = trained(session, lane)
        runs[name] = {"student": state(lane.student), "rows": rows, "forwards": len(forwards)}
        session.runtime.same(None)  # both have written
        if name == "full" and rank == 1:
            for lost in folder.rglob("*process-1-of-2"):
                shutil.rmtree(lost)
    return {"runs": runs, "files": sorted(str(file.relative_to(folder)) for file in folder.rglob("epoch-*/*"))}


def facts_of(folder, rank):
    both = {"network": network(), "banks": banks(), "accumulated": accumulated(False)}
    if rank is None:
        return both
    more = {"exchanged": exchanged(), "careless": careless(), "always": accumulated(True), "store": store(folder / "store")}
    return {**both, **more}


def main(folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.set_num_threads(1)
    children = []
    for rank in (None, 0, 1):
        child = os.fork()
        if child == 0:
            if rank is not None:
                os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_PORT": str(port)}
                os.environ |= {"MASTER_ADDR": "127.0.0.1", "LOCAL_WORLD_SIZE": "2"}
            torch.save(facts_of(folder, rank), folder / f"{'alone' if rank is None else rank}.pt")
            sys.stdout.flush()
            os._exit(0)
        children.append(child)
    failed = [os.waitpid(child, 0)[1] for child in children]
    sys.exit(1 if any(failed) else 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
