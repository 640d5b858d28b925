"""The run of a lane in a comparison: built, then entered once the teacher is ready."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdengine.errors import cause
from kdengine.plugins.selection import choose_distillers, resolved
from kdengine.runs.lane_specs import LaneSpec
from kdengine.runs.run import Run
from kdengine.runs.session import Session
from kdengine.runs.start import enter, start_in
from kdengine.storage.runfolder import RunFolder

__all__ = ["entered", "run_of"]


def run_of(spec: LaneSpec, session: Session, folder: Path, advice: str) -> Run | None:
    """Build the run of a lane; if that fails, record the failure in its folder and return None.

    Args:
        spec: the lane.
        session: data, device and teacher.
        folder: the folder of the trial.
        advice: the command that resumes the comparison.
    """
    files = RunFolder(folder / spec.label)
    settings = spec.settings_in(session.settings, session.registry)
    distillers = choose_distillers(copy.deepcopy(list(spec.plugins)), settings.options, session.registry)
    try:
        lane = session.lane(spec.label, session.twin(), distillers, settings)
    except Exception as error:  # methods raise errors of any type; the other lanes continue
        if session.runtime.is_main:
            files.begin(settings, session.facts(None), fresh=False)
            files.write_json("failed.json", {"error": cause(error), "epoch": 0})
            files.free()
        return None
    settings = resolved(settings, distillers, own_loaders=session.data.own_loaders)
    return session.run(settings, lane, files, advice)


def entered(run: Run, session: Session, teacher: Mapping[str, Any] | None, override: bool) -> Run:
    """Create the folder of a run or restore its state; its settings name the cached teacher, so it can be rerun alone.

    Args:
        run: the run.
        session: data, device and teacher.
        teacher: facts about the teacher, if any.
        override: resume even with a different data set, teacher or precision.
    """
    if teacher and "folder" in teacher and run.lane.needs_teacher:
        weights = str(Path(teacher["folder"]) / "student.safetensors")
        run = replace(run, settings=run.settings.model_copy(update={"teacher_weights": weights}))
    start = session.runtime.same(start_in(run.folder.path, override))
    enter(run, start, session.facts(teacher if run.settings.teacher else None))
    return run
