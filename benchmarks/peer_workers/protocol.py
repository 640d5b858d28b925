"""What all workers share: commands over pipes, the networks and batches of a measurement, and a timed loop.

A worker reads one JSON object a line and answers each with one:

    {"do": "facts"}                                 -> {"facts": {...}}
    {"do": "prepare", "method": M, "precision": P}  -> {"terms": {name: value of the first step}} or {"error": reason}
    {"do": "steps", "count": N}                     -> {"seconds": [N numbers]}
    {"do": "stop"}                                  -> ends

It imports nothing of kdengine, because the workers of other libraries run in an environment without it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

__all__ = ["CLASSES", "LR", "MOMENTUM", "SAMPLES", "Channel", "Loop", "Scene", "reason", "serve"]

CLASSES, SAMPLES = 100, 50_000
LR, MOMENTUM = 1e-6, 0.9
"""So small a rate that no method explodes beside an untrained teacher; the work is the same."""
LONGEST = 160
"""Characters of an error that are passed on."""


class Channel:
    """One end of the pipes; what libraries print goes to standard error instead."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)
        self._again: dict[str, Any] | None = None

    def read(self) -> dict[str, Any]:
        """The next command; ``stop`` at the end of the input."""
        if self._again is not None:
            command, self._again = self._again, None
            return command
        line = sys.stdin.readline()
        return json.loads(line) if line else {"do": "stop"}

    def unread(self, command: dict[str, Any]) -> None:
        """Give a command back, to be read next."""
        self._again = command

    def write(self, **answer: Any) -> None:
        """Answer a command."""
        print(json.dumps(answer), file=self._out)


class Loop(Protocol):
    """A training loop of a library with one method."""

    def step(self) -> dict[str, float]:
        """Take one whole step; returns the values of its loss by name, which may be empty after the first."""


class Scene:
    """The networks and batches of a measurement, the same for every worker.

    Args:
        folder: with ``scene.json`` (the names of the networks), ``teacher.safetensors``, ``student.safetensors`` and
            ``batches.safetensors``: ``x0`` [B, 3, 32, 32], ``y0`` [B], ``index0`` [B] and so on.
    """

    def __init__(self, folder: Path) -> None:
        import kdzoo  # registers the networks with timm
        import timm

        self._create = timm.create_model
        self.folder = folder
        self.names: dict[str, str] = json.loads((folder / "scene.json").read_text(encoding="utf-8"))
        stored = load_file(folder / "batches.safetensors")
        self.batches = [tuple(stored[f"{name}{number}"] for name in ("x", "y", "index")) for number in range(len(stored) // 3)]

    def network(self, role: str) -> nn.Module:
        """``teacher`` in eval mode, or ``student`` in training mode, with the weights of the measurement."""
        network: nn.Module = self._create(self.names[role], num_classes=CLASSES)
        network.load_state_dict(load_file(self.folder / f"{role}.safetensors"))
        return network.train(role == "student")

    def endless(self) -> Iterator[tuple[Tensor, ...]]:
        """The batches (images, labels, positions), over and over."""
        return cycle(self.batches)


def reason(error: BaseException) -> str:
    """An error in one line."""
    text = f"{type(error).__name__}: {error}".splitlines()[0]
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def serve(library: str, prepare: Callable[[Scene, str], Loop | None]) -> None:
    """Answer commands with the loops of a library, until told to stop.

    Args:
        library: its name, as a distribution.
        prepare: (scene, method) -> a loop, or None if the library does not have the method.
    """
    from importlib.metadata import version

    channel, scene = Channel(), Scene(Path(sys.argv[1]))
    loop: Loop | None = None
    while (command := channel.read())["do"] != "stop":
        if command["do"] == "facts":
            channel.write(facts={library: version(library), "torch": torch.__version__, "threads": torch.get_num_threads()})
        elif command["do"] == "prepare":
            torch.manual_seed(0)
            try:
                loop = prepare(scene, command["method"])
                channel.write(**({"error": "missing"} if loop is None else {"terms": loop.step()}))
            except Exception as error:  # a library may fail in any way
                channel.write(error=reason(error))
        else:
            assert loop is not None
            channel.write(seconds=[_timed(loop) for _ in range(command["count"])])


def _timed(loop: Loop) -> float:
    start = time.perf_counter()
    loop.step()
    return time.perf_counter() - start
