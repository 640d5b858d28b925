"""The runs of the lanes of a comparison: built in passes of as many as fit, then entered once the teacher is ready."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdengine.config.settings import Settings
from kdengine.errors import cause
from kdengine.methods.distiller import Distiller
from kdengine.networks.models import count_parameters
from kdengine.plugins.selection import choose_distillers, resolved
from kdengine.runs.lane_specs import LaneSpec, name_of
from kdengine.runs.ready_teachers import weights_trained
from kdengine.runs.run import Run
from kdengine.runs.session import Session
from kdengine.runs.start import enter, start_in
from kdengine.storage.runfolder import RunFolder
from kdengine.training.memory import CROWDED, bytes_of, free_bytes
from kdengine.training.runtime import Runtime

__all__ = ["Job", "chosen", "entered", "passes", "planned", "run_of"]


@dataclass(frozen=True)
class Job:
    """A lane to train in one trial.

    Attributes:
        spec: the lane.
        session: data, device and teachers, and the settings of its student.
        folder: its run folder.
    """

    spec: LaneSpec
    session: Session
    folder: Path


def passes(jobs: Sequence[Job], at_once: int | None, advice: str) -> Iterator[list[tuple[Run, Session]]]:
    """The unfinished runs of a trial, in passes of as many as fit; each pass is built only after the previous one is over.

    Args:
        jobs: all lanes of the trial.
        at_once: lanes in a pass; None for as many as fit into memory.
        advice: the command that resumes the comparison.

    Yields:
        the runs of a pass, each with the session that made it.
    """
    runtime = jobs[0].session.runtime
    ended = runtime.same([RunFolder(job.folder).ended for job in jobs])
    waiting = [job for job, done in zip(jobs, ended, strict=True) if not done]
    while waiting:
        space, runs = CROWDED * free_bytes(runtime.device), list[tuple[Run, Session]]()
        while waiting and not _is_full(runs, at_once, space, runtime):
            job = waiting.pop(0)
            run = run_of(job, advice)
            runs += [] if run is None else [(run, job.session)]
        if runs:
            yield runs
        runs.clear()  # frees their memory for the next pass
        run = None


def _is_full(runs: Sequence[tuple[Run, Session]], at_once: int | None, space: float, runtime: Runtime) -> bool:
    """Whether a pass can take no further lane; all processes agree."""
    if at_once is not None:
        return len(runs) >= at_once
    return bool(runtime.same(sum(bytes_of(run.lane) for run, _ in runs) > space))


def run_of(job: Job, advice: str) -> Run | None:
    """Build the run of a lane; if that fails, record the failure in its folder and return None.

    Args:
        job: the lane.
        advice: the command that resumes the comparison.
    """
    spec, session, files = job.spec, job.session, RunFolder(job.folder)
    settings, distillers = chosen(spec, session)
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


def planned(spec: LaneSpec, session: Session) -> dict[str, Any]:
    """What a lane would be, as plain data: its methods, epochs and connectors, or ``problem``, why it cannot run.

    Args:
        spec: the lane.
        session: data, device and teacher.
    """
    facts = {"method": spec.label, "plugins": [name_of(plugin) for plugin in spec.plugins]}
    settings, distillers = chosen(spec, session)
    try:
        lane = session.lane(spec.label, session.twin(), distillers, settings)
    except Exception as error:  # of any type, as in run_of
        return {**facts, "problem": cause(error)}
    extra = sum(count_parameters(method) for step in lane.chain for method in step.module.methods.values())
    phases = [phase.name for step in lane.chain for phase in step.phases]
    return {**facts, "phases": phases, "epochs": lane.total_epochs, "connector_parameters": extra}


def chosen(spec: LaneSpec, session: Session) -> tuple[Settings, dict[str, Distiller]]:
    """The settings of a lane, and its distillers by id.

    Args:
        spec: the lane.
        session: has the settings of the comparison.
    """
    settings = spec.settings_in(session.settings, session.registry)
    return settings, choose_distillers(copy.deepcopy(list(spec.plugins)), settings.options, session.registry)


def entered(run: Run, session: Session, teacher: Mapping[str, Any] | None, override: bool) -> Run:
    """Create the folder of a run or restore its state; its settings name the cached teachers, so it can be rerun alone.

    Args:
        run: the run.
        session: data, device and teacher.
        teacher: facts about the teacher or the ensemble of teachers, if any.
        override: resume even with a different data set, teacher or precision.
    """
    if run.lane.needs_teacher:
        run = replace(run, settings=weights_trained(teacher, run.settings))
    start = session.runtime.same(start_in(run.folder.path, override))
    enter(run, start, session.facts(teacher if run.lane.needs_teacher else None))
    return run
