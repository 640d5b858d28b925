"""The other end: starts a worker in an environment, and speaks with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ["Worker", "make_environment"]

PACKAGES = ("torchdistill", "nvidia-modelopt", "timm", "torchvision", "safetensors", "requests")
"""What the workers of the peers import; nvidia-modelopt imports requests without asking for it."""


class Worker:
    """A process that trains with one library, step by step.

    Args:
        command: what starts it.
        paths: folders that it imports from.
        log: file for what it prints.
        alone: import from nowhere else; otherwise also from where this process does.

    Attributes:
        ready: why it cannot run the current method; None if it can.
    """

    def __init__(self, command: Sequence[str | Path], paths: Sequence[Path], log: Path, alone: bool = False) -> None:
        self.ready: str | None = "not asked"
        self._log = log
        inherited = [] if alone else os.environ.get("PYTHONPATH", "").split(os.pathsep)
        path = os.pathsep.join(filter(None, [*map(str, paths), *inherited]))
        with log.open("w", encoding="utf-8") as errors:
            self._process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, "PYTHONPATH": path},
            )

    def ask(self, **command: Any) -> dict[str, Any]:
        """Its answer to a command; ``{"error": ...}`` if it has died."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(json.dumps(command), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        last = (self._log.read_text(encoding="utf-8").strip().splitlines() or ["without a word"])[-1]
        return {"error": f"the worker died: {last}"}

    def prepare(self, method: str, precision: str) -> Mapping[str, float]:
        """Make a method ready; returns the values of its first step, or nothing if it cannot run (see :attr:`ready`)."""
        answer = self.ask(do="prepare", method=method, precision=precision)
        self.ready = answer.get("error")
        return answer.get("terms", {})

    def steps(self, count: int) -> list[float]:
        """Seconds of so many steps; none if it cannot take them."""
        answer = self.ask(do="steps", count=count) if self.ready is None else {}
        self.ready = answer.get("error", self.ready)
        return answer.get("seconds", [])

    def stop(self) -> None:
        """End it, dead or alive, and close its pipes."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            print(json.dumps({"do": "stop"}), file=self._process.stdin, flush=True)
        with suppress(BrokenPipeError):  # what could not be written is still in its buffer
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


def make_environment(folder: Path, torch: str) -> Path:
    """The Python of an environment with the peers; it is made if it is not there.

    Args:
        folder: of the environment.
        torch: the version that it gets.

    Raises:
        subprocess.CalledProcessError: it cannot be made.
    """
    python = folder / "bin" / "python"
    if not python.exists():
        print(f"Making an environment with {', '.join(PACKAGES)} in {folder}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", f"torch=={torch}", *PACKAGES], check=True)
    return python
