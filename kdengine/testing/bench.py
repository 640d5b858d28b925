"""A test bench: one method on two tiny networks, stepped manually on random images."""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from kdengine.config.settings import Settings
from kdengine.data.batches import Batch
from kdengine.data.dataset import Data, Split
from kdengine.methods.distiller import Distiller
from kdengine.plugins.registry import ALLOW, Registry
from kdengine.plugins.selection import choose_distillers
from kdengine.runs.session import Session
from kdengine.taps import Trace
from kdengine.training.chain import TeacherQuery
from kdengine.training.lane import Lane
from kdengine.training.trainer import ask_teachers

__all__ = ["Bench", "grey", "installed", "random_batch"]

SIZE = (3, 32, 32)
CLASSES = 10
SHARE_OF_LABELS = 0.4
"""How likely an image is to have a label."""


class Bench:
    """A lane with at most one method, trained step by step by the caller.

    Args:
        method: name of a method or composition, or a class; None for plain training.
        pair: teacher, or None, and student; they are copied.
        options: options of the method; ``weight`` also applies to the other methods of a composition.
        precision: ``fp32`` or ``bf16``.
        epochs: length of the joint phase; the caller decides how many steps an epoch has.
        labels: whether ``pair.labels`` tells the labels of all training images.
        task: the task of the data, ``classification`` or ``multilabel``; by default the first that the method serves.
    """

    def __init__(
        self,
        method: str | type[Distiller] | None,
        pair: tuple[nn.Module | None, nn.Module],
        options: Mapping[str, Any] | None = None,
        precision: str = "fp32",
        epochs: int = 1,
        labels: bool = True,
        task: str | None = None,
    ) -> None:
        distillers = distillers_of(method, options or {})
        self.task = task or _task_of(distillers.values())
        train = {
            "epochs": epochs,
            "lr": 0.01,
            "device": "cpu",
            "precision": precision,
            "fold_teacher": False,  # a method that compares a network to itself has to find it equal
            "channels_last": False,
            "batch_size": 32,
        }
        self.teacher: nn.Module | None = copy.deepcopy(pair[0])
        self.student: nn.Module = copy.deepcopy(pair[1])
        names = {"teacher": "module:teacher"} if self.teacher is not None else {}
        settings = Settings.checked({"student": "module:student", **names, "train": train})
        modules = {"student": self.student} if self.teacher is None else {"student": self.student, "teacher": self.teacher}
        session = Session.open(settings, installed(), modules=modules, data=grey(SIZE, CLASSES, task=self.task), alone=True)
        session = session if labels else replace(session, data=replace(session.data, dataset=None))
        self.lane = session.lane("bench", session.student(), distillers)

    def batch(self, count: int, seed: int = 0) -> Batch:
        """A batch of noise images with random targets of the bench's task."""
        return random_batch(count, seed, self.task)

    def traces(self, batch: Batch) -> dict[TeacherQuery, Trace]:
        """The teacher's traces of a batch that the current phase needs."""
        return ask_teachers([self.lane], batch)

    def step(self, batch: Batch, traces: Mapping[TeacherQuery, Trace] | None = None) -> None:
        """Update the student once."""
        self.lane.step(batch, self.traces(batch) if traces is None else traces)
        self._stepped = True

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """The weighted terms of the current phase, name -> []; nothing is updated."""
        terms: dict[str, Tensor] = self.lane.module(*self.lane.inputs(batch, self.traces(batch)))[0]
        return terms

    def phases(self) -> Iterator[Lane]:
        """Iterate over all epochs of all phases and networks; the caller takes the steps of each epoch."""
        while not self.lane.finished:
            self.lane.begin_epoch()
            self._stepped = False
            yield self.lane
            if not self._stepped:
                self.step(self.batch(4))
            self.lane.end_epoch({})


def installed() -> Registry:
    """The registry that benches share: to look for plugins takes longer than a step."""
    return _registry(tuple(sys.path), os.environ.get(ALLOW))


@lru_cache(maxsize=1)
def _registry(path: tuple[str, ...], allowed: str | None) -> Registry:
    """The plugins found on a path; anew when the path changes, or what may be loaded."""
    return Registry()


def distillers_of(method: str | type[Distiller] | None, options: Mapping[str, Any]) -> dict[str, Distiller]:
    """The distillers of a lane with one method or composition, by id."""
    if method is None:
        return {}
    registry = installed()
    if isinstance(method, Distiller):
        kind = type(method).__name__
        raise TypeError(f"method = {kind}(...) is an object: give the class, method = {kind}, and options = {{...}} beside it.")
    if not isinstance(method, str):
        return choose_distillers([method(**options)], {}, registry)
    first, *others = registry.methods(method)
    shared = {key: value for key, value in options.items() if key == "weight"}
    return choose_distillers([method], {first.name: options, **{other.name: shared for other in others}}, registry)


def _task_of(distillers: Iterable[Distiller]) -> str:
    """The first task that all of the methods serve."""
    return "classification" if all("classes" in distiller.serves for distiller in distillers) else "multilabel"


def grey(size: tuple[int, int, int], classes: int, count: int = 64, task: str = "classification") -> Data:
    """A data set of grey images [C, H, W], for code that only needs their number and size."""
    targets = torch.zeros(count, classes) if task == "multilabel" else torch.zeros(count, dtype=torch.int64)
    split = Split(targets, torch.full((count, *size), 128, dtype=torch.uint8))
    channels, names = size[0], tuple(map(str, range(classes)))
    scale = (0.5,) * channels, (0.25,) * channels
    return Data("grey", names, size, *scale, "none", split, split, fingerprint="grey", task=task)


def random_batch(count: int, seed: int = 0, task: str = "classification") -> Batch:
    """A batch of noise images [count, 3, 32, 32] in two views, with random classes [count], or labels [count, 10]."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, *SIZE, generator=generator)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    views = (images + torch.randn(count, *SIZE, generator=generator),)
    if task == "multilabel":
        labels = (torch.rand(count, CLASSES, generator=generator) < SHARE_OF_LABELS).float()
    return Batch(images, labels, torch.arange(count), views)
