"""A unit of work, and what came of it: plain data that goes to other processes and machines."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from kdengine.errors import LaunchError
from kdengine.launchers.fitness import unfit, unfit_worker

__all__ = ["Demand", "Kind", "Outcome", "Resources", "Unit"]

Kind = Literal["done", "failed", "refused", "stopped", "lost"]


@dataclass(frozen=True)
class Resources:
    """What a unit gets while it runs.

    Attributes:
        threads: threads of its work on the CPU; the last digits of its numbers depend on it.
        gpus: GPUs, or a share of one.
        memory: estimated memory of its networks and their training state, in bytes; None if unknown.
    """

    threads: int
    gpus: float = 0.0
    memory: int | None = None


@dataclass(frozen=True)
class Unit:
    """A function to call once, in some other process.

    Attributes:
        name: unique among the units of a job, and fit to be the name of a file.
        call: the function, ``package.module:function``.
        arguments: its arguments, as JSON can write them.
        lanes: how many lanes it trains.
        folder: the directory to call it in, on a disk that driver and workers share.
        environment: variables to set.
        log: file that gets what it prints, appended.
        memory: estimated memory, in bytes; None if unknown.
    """

    name: str
    call: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    lanes: int = 1
    folder: str = "."
    environment: Mapping[str, str] = field(default_factory=dict)
    log: str | None = None
    memory: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Outcome:
    """How a unit ended.

    Attributes:
        unit: its name.
        kind: ``done``; ``failed``, by an error that it would meet again; ``refused``, because its worker is not fit for the
            job, so that no unit should go there; ``stopped``, because it was asked to, after it saved its state; or ``lost``
            with its worker, so that it is worth another try.
        reason: why, unless it is done.
    """

    unit: str
    kind: Kind
    reason: str = ""


@dataclass(frozen=True)
class Demand:
    """What a launcher is told before the units come.

    Attributes:
        device: the type of device that the units train on: ``cpu``, ``cuda`` or ``mps``.
        folder: a folder on the shared disk for the launcher's own files.
        expected: what must be true on every worker: versions, files, and the token that shows that the disk is shared.
    """

    device: str
    folder: str
    expected: Mapping[str, Any] = field(default_factory=dict)

    @property
    def probe(self) -> str:
        """The source of ``unfit(expected)``, which returns what is wrong with a machine, as a list of phrases.

        It needs nothing but the standard library, so that a launcher can run it where kdengine is missing.
        """
        return inspect.getsource(unfit).replace("Mapping[str, Any]", "dict")

    def refusal(self, machine: str, faults: Iterable[str]) -> LaunchError:
        """The error for a machine with faults."""
        return LaunchError(unfit_worker(machine, faults))
