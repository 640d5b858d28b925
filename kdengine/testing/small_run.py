"""A whole run of two epochs on noise, for checks of what runs need: tasks and observers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from kdengine.config.settings import Settings
from kdengine.data.dataset import Data, Split
from kdengine.plugins.registry import Registry
from kdengine.runs.plan import Plan
from kdengine.runs.result import Result
from kdengine.runs.session import Session
from kdengine.runs.start import start_in
from kdengine.runs.train import train_plan

__all__ = ["EPOCHS", "noise", "small_run"]

SIZE = (3, 32, 32)
EPOCHS = 2


def noise(targets: Tensor, classes: int, task: str = "classification") -> Data:
    """A data set of noise images [N, 3, 32, 32] with these targets [N, ...], both to train on and to test on."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (len(targets), *SIZE), generator=generator).to(torch.uint8)
    split = Split(targets, images)
    names, scale = tuple(map(str, range(classes))), ((0.5,) * 3, (0.25,) * 3)
    return Data("noise", names, SIZE, *scale, "none", split, split, fingerprint="noise", task=task)


def small_run(
    folder: Path, student: nn.Module, data: Data, registry: Registry | None = None, observers: Iterable[object] = ()
) -> Result:
    """Train a student without a teacher for two epochs on the CPU, or resume that run if the folder has one.

    Args:
        folder: the run folder.
        student: the network, which is trained in place.
        data: what to train on; names the task.
        registry: finds the task; its selected plugins observe the run.
        observers: objects with hooks.

    Raises:
        KDError: the run cannot begin, or fails.
    """
    train = {"epochs": EPOCHS, "lr": 0.01, "batch_size": 16, "device": "cpu", "precision": "fp32", "channels_last": False}
    settings = Settings.checked({"student": "module:student", "train": train})
    modules = {"student": student}
    session = Session.open(settings, registry or Registry(), modules=modules, data=data, observers=observers, alone=True)
    start = start_in(folder)
    return train_plan(Plan.of(session, {}, start.folder("small"), "plain"), start)
