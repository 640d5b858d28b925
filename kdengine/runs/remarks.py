"""What a user may not have meant, or should know before the run, each in one line of the log."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import torch

from kdengine.config.settings import Settings
from kdengine.training.busy import busy_machine

__all__ = ["remark_on", "remarks"]

log = logging.getLogger(__name__)


def remark_on(settings: Settings, device: str) -> None:
    """Log every remark on a run that is about to start.

    Args:
        settings: of the run.
        device: kind of its device, such as ``cpu``.
    """
    for text in remarks(settings):
        log.info(text)
    threads = torch.get_num_threads()
    others = busy_machine(threads) if device == "cpu" else None
    if others is not None:
        known = "" if "OMP_NUM_THREADS" in os.environ else " Set OMP_NUM_THREADS=1 in the environment."
        log.info(
            f"This machine is busy: {others} other threads are running. {threads} threads that share cores with them may be "
            f"many times slower than one.{known}"
        )


def remarks(settings: Settings) -> Iterator[str]:
    """Settings that are allowed and may be a mistake."""
    for name in dict.fromkeys(settings.methods):
        count = settings.methods.count(name)
        if count > 1:
            yield f"The method {name} is selected {count} times: its terms add up; options of the second: '{name}-2'."
    if any(_same(teacher, settings.student) for teacher in settings.teachers):
        yield f"Teacher and student are the same network, {settings.student}: the student learns from one of its own size."


def _same(teacher: str, student: str) -> bool:
    """Whether two specs name the same network, with or without ``timm:``; modules cannot be told apart by name."""
    return teacher.removeprefix("timm:") == student.removeprefix("timm:") and not teacher.startswith("module:")
