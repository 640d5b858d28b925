"""Graceful stops: the first Ctrl-C or SIGTERM takes effect after the current step, the second immediately.

Of several processes, it is enough that one is asked: all stop after the same step, which is the current one or the next.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from kdengine.errors import counted

if TYPE_CHECKING:  # the command line listens too, and need not wait until torch is imported
    from kdengine.training.peers import Peers

__all__ = ["Stop", "Stopped", "listening", "saved_so_far"]

log = logging.getLogger(__name__)
SIGNALS = (signal.SIGINT, signal.SIGTERM)
DEFAULT_HANDLERS = (signal.default_int_handler, signal.SIG_DFL)
"""Handlers of a signal that no other code has claimed."""
ECHO = 1.0
"""Seconds in which a signal counts once: ``torchrun`` and Slurm both pass on what the other has sent to all processes."""


class Stopped(KeyboardInterrupt):
    """Training was asked to stop and did so between two steps, so that its state is consistent."""


class Stop:
    """Whether training has been asked to stop.

    Args:
        peers: the processes that train together; None if this is the only one.

    Attributes:
        asked: whether this process has been asked.
    """

    def __init__(self, peers: Peers | None = None) -> None:
        self.asked = False
        self._asked_at = 0.0
        self._peers = peers

    @property
    def is_shared(self) -> bool:
        """Whether several processes have to stop together."""
        return self._peers is not None

    def ask(self, number: int, frame: Any) -> None:
        """Handle a signal.

        Raises:
            KeyboardInterrupt: this is not the first signal.
        """
        now = time.monotonic()
        if self.asked and not (self.is_shared and now - self._asked_at < ECHO):
            raise KeyboardInterrupt
        if self.asked:
            return
        self.asked, self._asked_at = True, now
        with suppress(RuntimeError):  # the signal may arrive while a stream is being written
            log.info("Stopping after this step; repeat to stop immediately")

    def check(self) -> None:
        """Stop if asked to; of several processes, all must call this after the same step.

        Raises:
            Stopped: a stop was requested.
        """
        if self.asked if self._peers is None else self._peers.agree(self.asked):
            raise Stopped


@contextmanager
def listening(peers: Peers | None = None) -> Iterator[Stop]:
    """Handle Ctrl-C and SIGTERM inside the context, unless other handlers are installed; only works in the main thread.

    Args:
        peers: the processes that train together; None if this is the only one, or if each may stop by itself.
    """
    stop = Stop(peers)
    if threading.current_thread() is not threading.main_thread():
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


def saved_so_far(epochs: int, steps: int = 0) -> str:
    """What of a run that was stopped is saved.

    >>> saved_so_far(1)
    '1 finished epoch is saved'
    >>> saved_so_far(1, 4)
    '1 finished epoch and 4 steps of the next one are saved'
    """
    within = f" and {counted(steps, 'step')} of the next one" if steps else ""
    return f"{counted(epochs, 'finished epoch')}{within} {'is' if epochs == 1 and not steps else 'are'} saved"
