"""What every unit does before its work: it checks that this worker is fit, and lets the driver know that it has begun."""

from __future__ import annotations

import gc
import logging
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from kdengine.dispatch.events import EventWriter
from kdengine.errors import LaunchError
from kdengine.launchers.fitness import unfit, unfit_worker

__all__ = ["on_duty"]


@contextmanager
def on_duty(expected: Mapping[str, Any], argv: Sequence[str], events: Path) -> Iterator[EventWriter]:
    """Tell the driver that a unit has begun, and free its memory at the end; gives what tells the driver more.

    Args:
        expected: what must be true here; see :func:`kdengine.launchers.fitness.unfit`.
        argv: the command of the driver, for the manifests.
        events: the file for events.

    Raises:
        LaunchError: this worker is not fit for the work.
    """
    faults = unfit(expected)
    if faults:
        raise LaunchError(unfit_worker(socket.gethostname(), faults))
    _log()
    sys.argv = list(argv)
    writer = EventWriter(events)
    writer.write(started=socket.gethostname())
    try:
        yield writer
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _log() -> None:
    """Write what kdengine says into the log of the unit."""
    logger = logging.getLogger("kdengine")
    logger.handlers = [logging.StreamHandler(sys.stderr)]
    logger.setLevel(logging.INFO)
    logger.propagate = False
