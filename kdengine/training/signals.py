"""Graceful stops: the first Ctrl-C or SIGTERM takes effect after the current step, the second immediately."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

__all__ = ["Stop", "Stopped", "listening"]

log = logging.getLogger(__name__)
SIGNALS = (signal.SIGINT, signal.SIGTERM)
DEFAULT_HANDLERS = (signal.default_int_handler, signal.SIG_DFL)
"""Handlers of a signal that no other code has claimed."""


class Stopped(KeyboardInterrupt):
    """Training was asked to stop and did so between two steps, so that its state is consistent."""


class Stop:
    """Whether training has been asked to stop."""

    def __init__(self) -> None:
        self.asked = False

    def ask(self, number: int, frame: Any) -> None:
        """Handle a signal.

        Raises:
            KeyboardInterrupt: this is not the first signal.
        """
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        with suppress(RuntimeError):  # the signal may arrive while a stream is being written
            log.info("Stopping after this step; repeat to stop immediately")

    def check(self) -> None:
        """Stop if asked to.

        Raises:
            Stopped: a stop was requested.
        """
        if self.asked:
            raise Stopped


@contextmanager
def listening(processes: int = 1) -> Iterator[Stop]:
    """Handle Ctrl-C and SIGTERM inside the context, unless other handlers are installed; only works in the main thread.

    Args:
        processes: number of processes that train together; several would stop at different steps, so they do not listen.
    """
    stop = Stop()
    if processes > 1 or threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    unclaimed = [number for number in SIGNALS if before[number] in DEFAULT_HANDLERS]
    try:
        for number in unclaimed:
            signal.signal(number, stop.ask)
        yield stop
    finally:
        for number in unclaimed:
            signal.signal(number, before[number])
