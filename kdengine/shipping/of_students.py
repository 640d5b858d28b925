"""What the students of a comparison cost where they were trained."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from kdengine.errors import cause
from kdengine.shipping.benchmark import benchmark
from kdengine.storage.names import BENCHMARK
from kdengine.storage.runfolder import RunFolder

__all__ = ["measure_students"]

log = logging.getLogger(__name__)


def measure_students(trial: Path, labels: Sequence[str], device: str) -> None:
    """Measure every network of a comparison once, and its teacher, unless that was done before; ``benchmark.json`` keeps it.

    The lanes of a student deploy the same network, so one of them is measured; and every one that deploys another network.
    What cannot be measured is no reason to lose what was trained: it is warned of.

    Args:
        trial: the folder of one trial.
        labels: of the students, whose folders lie there.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
    """
    chosen = [folder for label in labels for folder in _different(sorted((trial / label).iterdir()))]
    if all((folder / BENCHMARK).is_file() for folder in chosen):
        return
    log.info("Measuring how long each student takes")
    try:
        with torch.random.fork_rng(devices=[]):
            benchmark(chosen, batch=1, device=device, trust=True)  # this process has just run the code that they name
    except Exception as error:  # of any type: all that was trained is already in its folder
        log.warning("The latency of the students was not measured: %s", cause(error))


def _different(folders: Sequence[Path]) -> Iterator[Path]:
    """A folder for each network among finished runs of one student; a lane with a teacher, where there is one."""
    finished = [(folder, result) for folder in folders if (result := RunFolder(folder).result()) is not None]
    named = [(folder, result) for folder, result in finished if not result["student"]["name"].startswith("module:")]
    if finished and not named:
        log.info("%s was passed as a module, so its latency is not measured", finished[0][1]["student"]["name"])
    alike = sorted(
        (not result.get("teacher"), place) for place, (_, result) in enumerate(named) if not result.get("deployed_by")
    )
    if alike:
        yield named[alike[0][1]][0]
    yield from (folder for folder, result in named if result.get("deployed_by"))
