"""Being asked to stop: a first Ctrl-C or SIGTERM is answered after the step in progress, a second one at once."""

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
UNHEARD = (signal.default_int_handler, signal.SIG_DFL)
"""What stands for a signal that nobody else listens to."""


class Stopped(KeyboardInterrupt):
    """Training was asked to stop, and did so between two steps, so that its state is whole."""


class Stop:
    """Whether training has been asked to stop."""

    def __init__(self) -> None:
        self.asked = False

    def ask(self, number: int, frame: Any) -> None:
        """Handle a signal.

        Raises:
            KeyboardInterrupt: it is not the first one.
        """
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        with suppress(RuntimeError):  # the signal may have come while something was being printed
            log.info("Stopping after this step; once more stops at once")

    def check(self) -> None:
        """Stop here if that was asked for.

        Raises:
            Stopped: it was.
        """
        if self.asked:
            raise Stopped


@contextmanager
def listening(processes: int = 1) -> Iterator[Stop]:
    """Listen to Ctrl-C and SIGTERM inside, where nobody else does; only a program's main thread can.

    Args:
        processes: that train together; of several, each would stop at another step, so none of them listens.
    """
    stop = Stop()
    if processes > 1 or threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    heard = [number for number in SIGNALS if before[number] in UNHEARD]
    try:
        for number in heard:
            signal.signal(number, stop.ask)
        yield stop
    finally:
        for number in heard:
            signal.signal(number, before[number])
