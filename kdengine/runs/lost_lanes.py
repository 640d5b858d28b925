"""Lanes whose worker was lost too often, or failed as a whole: they become rows that say why, and may be tried again."""

from __future__ import annotations

import logging
from pathlib import Path

from kdengine.errors import KDError
from kdengine.runs.lane_runs import Job
from kdengine.storage.reading import read_json
from kdengine.storage.runfolder import RunFolder

__all__ = ["LOST", "forget_lost", "record_lost"]

log = logging.getLogger(__name__)
LOST = "lost"
"""Entry of ``failed.json`` that marks a lane which did not fail by itself."""


def record_lost(job: Job, reason: str) -> None:
    """Write down why a lane was given up, unless it has ended; what it has saved stays.

    Args:
        job: the lane.
        reason: why.
    """
    files, session = RunFolder(job.folder), job.session
    if files.ended:
        return
    try:
        if (job.folder / "run.toml").is_file():
            files.take()
        else:
            files.begin(job.spec.settings_in(session.settings, session.registry), session.facts(None), fresh=False)
        files.write_json("failed.json", {"error": reason, "epoch": len(files.metrics()) + 1, LOST: True})
    except KDError as error:
        log.warning("%s", error)
    finally:
        files.free()


def forget_lost(folder: Path) -> None:
    """Let the lanes of a comparison that were given up be tried again.

    Args:
        folder: the folder of the comparison.
    """
    for file in folder.glob("trial-*/**/failed.json"):
        if read_json(file).get(LOST):
            RunFolder(file.parent).forget_failure()
