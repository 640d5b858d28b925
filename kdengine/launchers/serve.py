"""The other end of a worker: ``python -m kdengine.launchers.serve`` carries out the units that arrive on standard input.

Each line is a unit, or ``stop`` with the name of one; each answer is a line. When the input ends, because the driver is gone,
the unit is asked to save and stop, and the process ends. Nothing heavy is imported here: units import what they need, once.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from importlib import import_module
from typing import Any

from kdengine.errors import KDError, LaunchError, cause

__all__ = ["STOP", "Desk", "carry_out", "main"]

PATIENCE = 300.0
"""Seconds that a unit has to save its state once its driver is gone."""
STOP = "stop"


class Desk:
    """What the thread that reads the input and the one that works know of each other."""

    def __init__(self) -> None:
        self.orders: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self.current = ""
        self.to_stop: set[str] = set()
        self.is_closed = False
        self.is_interruptible = threading.Event()

    def stop(self, name: str) -> None:
        """Ask a unit to stop, whether or not it has begun; one that has ended is left alone."""
        self.to_stop.add(name)
        if self.is_interruptible.is_set() and name == self.current:
            os.kill(os.getpid(), signal.SIGTERM)

    def close(self) -> None:
        """Take no further orders."""
        self.is_closed = True
        self.orders.put(None)
        self.stop(self.current)


def main() -> None:
    """Carry out units until the input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a unit prints must not be mistaken for an answer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the driver, which asks in its own time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    desk = Desk()
    threading.Thread(target=_listen, args=(desk,), daemon=True).start()
    while (order := desk.orders.get()) is not None:
        answer = carry_out(order, desk)
        try:
            answers.write(f"{json.dumps(answer)}\n")
            answers.flush()
        except OSError:  # the driver is gone
            return


def carry_out(order: dict[str, Any], desk: Desk) -> dict[str, str]:
    """Call the function of a unit; returns its outcome as plain data.

    Args:
        order: the unit as plain data.
        desk: says when the unit is asked to stop.
    """
    kind, reason = "done", ""
    try:
        desk.current = order["name"]
        os.environ.update(order["environment"])
        os.chdir(order["folder"])
        _write_to(order["log"])
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # which the training takes over, to stop between steps
        desk.is_interruptible.set()
        if desk.is_closed or order["name"] in desk.to_stop:
            raise KeyboardInterrupt
        module, _, function = order["call"].partition(":")
        getattr(import_module(module), function)(**order["arguments"])
    except KeyboardInterrupt:
        kind, reason = "stopped", "it was asked to stop"
    except LaunchError as error:
        kind, reason = "refused", str(error)
    except BaseException as error:  # a unit may raise anything
        traceback.print_exc()
        notes = [f"({note})" for note in getattr(error, "__notes__", ())]
        kind, reason = "failed", " ".join([str(error) if isinstance(error, KDError) else cause(error), *notes])
    finally:
        desk.is_interruptible.clear()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        desk.to_stop.discard(order["name"])
        sys.stdout.flush()
        sys.stderr.flush()
    return {"unit": order["name"], "kind": kind, "reason": reason}


def _write_to(log: str | None) -> None:
    """Let this process print to the end of a file."""
    if log is None:
        return
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.close(file)


def _listen(desk: Desk) -> None:
    """Read the input; at its end, stop the unit, and leave if that takes too long."""
    for line in sys.stdin:
        word, _, name = line.strip().partition(" ")
        if word == STOP:
            desk.stop(name)
        else:
            desk.orders.put(json.loads(line))
    desk.close()
    time.sleep(PATIENCE)
    os._exit(1)


if __name__ == "__main__":
    main()
