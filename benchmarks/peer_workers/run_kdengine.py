"""The worker of kdengine: a whole run, which an observer holds up between the steps that are asked for."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from methods import METHODS
from protocol import LR, MOMENTUM, SAMPLES, Channel, Scene, reason

from kdengine import Engine, hookimpl
from kdengine.training.runtime import Runtime

TIMES = 2000
"""How often an epoch goes over the batches: more than are ever asked for, for between epochs a run does other things."""


class Enough(Exception):
    """Another method is wanted."""


class Repeated:
    """A loader that gives the same batches over and over, of a data set of the size of CIFAR-100."""

    class Images:
        """What a loader tells of its data set: how many images it has."""

        def __len__(self) -> int:
            return SAMPLES

    def __init__(self, batches: list[tuple[torch.Tensor, ...]], times: int) -> None:
        self.batches = batches
        self.times = times
        self.dataset = self.Images()

    def __len__(self) -> int:
        return self.times * len(self.batches)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, ...]]:
        for _ in range(self.times):
            yield from self.batches


class Turns:
    """Observer: takes the steps that the channel asks for, and waits between them.

    Args:
        channel: where commands come from.
        phase: name of the phase whose steps count.
    """

    def __init__(self, channel: Channel, phase: str) -> None:
        self.channel = channel
        self.phase = phase
        self.seconds: list[float] = []
        self.wanted = 0
        self.mark = 0.0

    @hookimpl
    def kdengine_after_step(self, run: Any, terms: dict[str, torch.Tensor]) -> None:
        """Note the time of a step, and wait for the next command after the last one asked for."""
        self.seconds.append(time.perf_counter() - self.mark)
        if run.lane.phase.name == self.phase:
            if self.wanted == 0:  # the first step was not asked for: it answers that the method is ready
                values = {name: float(value) for name, value in terms.items()}
                self.answer(terms={**values, "total": sum(values.values())})
            elif len(self.seconds) == self.wanted:
                self.answer(seconds=self.seconds)
        self.mark = time.perf_counter()

    def answer(self, **answer: Any) -> None:
        """Answer, and wait for the next command."""
        self.channel.write(**answer)
        command = self.channel.read()
        if command["do"] != "steps":
            self.channel.unread(command)
            raise Enough
        self.wanted, self.seconds = command["count"], []


def run(channel: Channel, scene: Scene, name: str, precision: str) -> None:
    """Train by a method until another command than ``steps`` comes."""
    method = METHODS[name]
    with TemporaryDirectory() as folder:
        Engine(
            scene.network("teacher"),
            scene.network("student"),
            plugins=list(method.plugins),
            options={key: dict(options) for key, options in method.options.items()},
            epochs=1,
            lr=LR,
            momentum=MOMENTUM,
            nesterov=False,
            weight_decay=0.0,
            schedule="constant",
            precision=precision,
            save_minutes=0,
            out=f"{folder}/run",
            observers=[Turns(channel, method.phase)],
        ).fit(Repeated(scene.batches, TIMES), progress=False)


def main() -> None:
    """Answer commands until told to stop."""
    channel, scene = Channel(), Scene(Path(sys.argv[1]))
    while (command := channel.read())["do"] != "stop":
        if command["do"] == "facts":
            channel.write(facts={"kdengine": version("kdengine"), "torch": torch.__version__, **Runtime().describe()})
            continue
        torch.manual_seed(0)
        try:
            run(channel, scene, command["method"], command["precision"])
            channel.write(error="the run ended before its steps were taken")
        except Enough:
            pass
        except Exception as error:  # the other methods go on
            channel.write(error=reason(error))


if __name__ == "__main__":
    main()
