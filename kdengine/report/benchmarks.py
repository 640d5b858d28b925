"""What networks cost where they run, as ``kdengine benchmark`` left it in run folders: columns of tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdengine.errors import StorageError, cause, counted
from kdengine.storage.names import BENCHMARK
from kdengine.storage.reading import read_json

__all__ = ["Benchmark", "cost_columns", "machines"]


@dataclass(frozen=True)
class Benchmark:
    """The numbers of one run.

    Attributes:
        machine: device, threads, precision and version.
        batches: the numbers of images that were tried at once.
        networks: role (``student``, ``teacher``) -> name, ``parameters``, ``flops``, ``peak_bytes`` and ``latency_ms``.
    """

    machine: str
    batches: tuple[int, ...]
    networks: Mapping[str, Mapping[str, Any]]

    @classmethod
    def read(cls, folder: Path) -> Benchmark | None:
        """From a run folder; None if it was not measured.

        Raises:
            StorageError: the file is damaged.
        """
        file = folder / BENCHMARK
        if not file.is_file():
            return None
        stored = read_json(file, needed={"student": dict, "batches": list})
        try:
            found = cls.of(stored)
            found.cells("student", found.batches)
            found.cells("teacher", found.batches)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise StorageError(f"'{file}' is damaged ({cause(error)}): remove it, and benchmark the run again.") from error
        return found

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Benchmark:
        """From the content of the file."""
        threads = counted(stored["threads"], "thread")
        machine = f"{stored['device_name']} ({stored['device']}, {threads}, {stored['precision']}, torch {stored['torch']})"
        networks = {role: stored[role] for role in ("student", "teacher") if stored.get(role)}
        return cls(f"{machine}, medians of {stored['rounds']} rounds", tuple(stored["batches"]), networks)

    def cells(self, role: str, batches: Sequence[int]) -> tuple[str, ...]:
        """The cells of a network under :func:`cost_columns`; empty ones for what was not measured."""
        facts = self.networks.get(role)
        if facts is None:
            return ("",) * len(cost_columns(batches))
        flops = "" if facts["flops"] is None else f"{facts['flops'] / 1e6:.1f}"
        peaks = (facts["peak_bytes"].get(str(count)) for count in batches)
        times = (facts["latency_ms"].get(str(count)) for count in batches)
        return (
            flops,
            *("" if peak is None else f"{peak / 1e6:.2f}" for peak in peaks),
            *("" if taken is None else f"{taken['median']:.2f}" for taken in times),
        )


def cost_columns(batches: Sequence[int]) -> tuple[str, ...]:
    """``MFLOPs``, then the peak memory and the latency for each size of batch."""
    return (
        "MFLOPs",
        *(f"peak MB, batch {count}" for count in batches),
        *(f"ms, batch {count}" for count in batches),
    )


def machines(benchmarks: Sequence[Benchmark]) -> str:
    """A sentence for captions: on what the latency was measured."""
    return f"Latency and memory: {' / '.join(dict.fromkeys(one.machine for one in benchmarks))}."
