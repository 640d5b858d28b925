"""A process that carries out units one after another, as launchers use it on whatever machine they reach."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO

from kdengine.launchers.serve import STOP
from kdengine.launchers.unit import Outcome, Unit

__all__ = ["Worker"]

OF_OTHER_RUNS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")
"""Variables that would make a worker one of several processes of a run."""
GRACE = 60.0
"""Seconds that a unit has to save and stop when its worker is interrupted."""


class Worker:
    """A process of its own that carries out units; it starts with the first one, and again after it was lost.

    It ends when this process ends, however that happens; a unit in progress saves its state before.

    Args:
        environment: variables to set before anything is imported, such as ``CUDA_VISIBLE_DEVICES``.
        threads: threads on the CPU.
    """

    def __init__(self, environment: Mapping[str, str] | None = None, threads: int | None = None) -> None:
        own = {} if threads is None else {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        self.environment = {**own, **(environment or {})}
        self.unit: Unit | None = None
        self._process: subprocess.Popen[str] | None = None
        self._answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._stopping = False

    @property
    def pid(self) -> int | None:
        """The process, if there is one."""
        return self._process.pid if self._process is not None else None

    def run(self, unit: Unit) -> Outcome:
        """Carry out a unit and wait for its outcome; if that is interrupted, the unit saves and stops first.

        Raises:
            KeyboardInterrupt: this process was interrupted; so for any other exception that reaches it from outside.
        """
        self.begin(unit)
        try:
            while True:
                outcome = self.poll(0.2)
                if outcome is not None:
                    return outcome
        except BaseException:
            self.stop()
            self.finish(GRACE)
            raise

    def begin(self, unit: Unit) -> None:
        """Hand a unit to the process and return at once."""
        self.unit, self._stopping = unit, False
        if self._process is None or self._process.poll() is not None:
            self._start(unit)
        with suppress(OSError):  # the process has ended just now; the answer is then that it was lost
            self._write(json.dumps(unit.to_dict()))

    def poll(self, seconds: float = 0.0) -> Outcome | None:
        """The outcome of the unit, if there is one within so many seconds."""
        if self.unit is None:
            return None
        try:
            answer = self._answers.get(timeout=seconds) if seconds else self._answers.get_nowait()
        except queue.Empty:
            return None
        unit, self.unit = self.unit, None
        if answer is not None:
            return Outcome(**json.loads(answer))
        return Outcome(unit.name, "stopped" if self._stopping else "lost", self._how_it_ended(unit))

    def stop(self) -> None:
        """Ask the unit to save its state and stop."""
        if self.unit is not None:
            self._stopping = True
            with suppress(OSError):
                self._write(f"{STOP} {self.unit.name}")

    def finish(self, seconds: float) -> Outcome | None:
        """Wait up to so many seconds for the outcome; None if the unit still runs."""
        deadline = time.monotonic() + seconds
        while self.unit is not None and time.monotonic() < deadline:
            outcome = self.poll(0.1)
            if outcome is not None:
                return outcome
        return None

    def close(self) -> None:
        """End the process, by force if it carries out a unit."""
        process, self._process = self._process, None
        if process is None:
            return
        if self.unit is not None:
            process.kill()
        assert process.stdin is not None
        with suppress(OSError):
            process.stdin.close()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self.unit = None

    def _start(self, unit: Unit) -> None:
        self.close_lost()
        base = {name: value for name, value in os.environ.items() if name not in OF_OTHER_RUNS}
        with Path(unit.log or os.devnull).open("a", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "kdengine.launchers.serve"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                encoding="utf-8",
                cwd=unit.folder,
                env={**base, **unit.environment, **self.environment},
                start_new_session=True,  # Ctrl-C must reach the driver alone
            )
        self._answers = queue.SimpleQueue()
        threading.Thread(target=_read, args=(self._process.stdout, self._answers), daemon=True).start()

    def close_lost(self) -> None:
        """Release what is left of a process that has ended."""
        if self._process is not None:
            self._process.wait()
            assert self._process.stdin is not None
            with suppress(OSError):
                self._process.stdin.close()
            self._process = None

    def _write(self, line: str) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def _how_it_ended(self, unit: Unit) -> str:
        assert self._process is not None
        code = self._process.wait()
        how = f"ended with status {code}"
        if code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            how = f"was killed by {name}" + (" (perhaps for want of memory)" if name == "SIGKILL" else "")
        return f"its worker {how}" + ("" if unit.log is None else f"; its log is '{unit.log}'")


def _read(stream: IO[str] | None, answers: queue.SimpleQueue[str | None]) -> None:
    """Pass on every line, and None at the end."""
    assert stream is not None
    with stream:
        for line in stream:
            answers.put(line)
    answers.put(None)
