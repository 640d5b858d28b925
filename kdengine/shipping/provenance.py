"""Where a student comes from: the licences of the weights behind it, and its scores in the trials of a comparison."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdengine.config.settings import Settings
from kdengine.config.specs import Spec
from kdengine.errors import KDError, ModelError
from kdengine.runs.result_view import teachers_in
from kdengine.runs.teachers import named_teachers
from kdengine.storage.lane_place import LanePlace
from kdengine.storage.runfolder import RunFolder

__all__ = ["Origin", "Trial", "origin_of_student", "origins_of_teachers", "spread", "trials_of"]

UNKNOWN = "unknown"
FRESH = "none: it was trained for this run, from fresh weights"


@dataclass(frozen=True)
class Origin:
    """A network and the licence of the weights that it brought along.

    Attributes:
        name: its spec.
        facts: scores and sizes, as ``result.json`` has them; empty for a student.
        licence: in words.
    """

    name: str
    facts: Mapping[str, Any]
    licence: str


@dataclass(frozen=True)
class Trial:
    """The result of one trial: its seed, and the headline after the last and after the best epoch."""

    seed: int
    last: float | None
    best: float | None


def origins_of_teachers(settings: Settings, result: Mapping[str, Any]) -> list[Origin]:
    """Every teacher of a run, with the licence of its weights."""
    facts = teachers_in(result.get("teacher"))
    each = facts[1:] if len(facts) > 1 else facts
    named = list(named_teachers(settings))
    known = [each[number] if number < len(each) else {} for number in range(len(named))]
    return [
        Origin(teacher.spec, found, _licence(teacher.spec, None if "folder" in found else teacher.weights))
        for teacher, found in zip(named, known, strict=True)
    ]


def origin_of_student(settings: Settings) -> Origin:
    """The student, with the licence of the weights that it started from."""
    return Origin(settings.student, {}, _licence(settings.student, settings.student_weights))


def _licence(spec: str, weights: str | None) -> str:
    """The licence of the weights that a network starts from, in words."""
    if weights is not None:
        return f"{UNKNOWN}: its weights come from a file"
    parsed = Spec.parse(spec, ModelError)
    if parsed.scheme == "module":
        return f"{UNKNOWN}: it was passed as a module"
    if parsed.scheme == "hf-hub" and parsed.options.get("pretrained", True):
        return f"that of [{parsed.name}](https://huggingface.co/{parsed.name.partition('@')[0]})"
    if not any(parsed.options.get(option) for option in ("pretrained", "weights", "weights_backbone")):
        return f"{UNKNOWN}: its factory may load weights" if parsed.scheme == "python" else FRESH
    return (_of_timm(parsed) if parsed.scheme == "timm" else None) or f"{UNKNOWN}: its library does not say"


def _of_timm(spec: Spec) -> str | None:
    """The licence in the configuration of pretrained weights of timm."""
    import timm

    config = timm.models.get_pretrained_cfg(spec.name)
    named = getattr(config, "license", None)
    return None if not named else f"{named} (of the pretrained weights, according to timm)"


def trials_of(folder: Path, result: Mapping[str, Any], headline: str) -> list[Trial]:
    """The trials of the comparison that a run is a lane of, in their order; the run alone if it is of none.

    Args:
        folder: the run folder.
        result: the content of its ``result.json``.
        headline: name of the measure.
    """
    place = LanePlace.of(folder)
    if place is None:
        return [_trial(result, headline)]
    siblings = sorted(place.comparison.glob("trial-*"), key=lambda path: (len(path.name), path.name))
    results = [_result(trial / place.student / folder.resolve().name) for trial in siblings]
    return [_trial(found, headline) for found in results if found is not None] or [_trial(result, headline)]


def _result(folder: Path) -> Mapping[str, Any] | None:
    try:
        return RunFolder(folder).result()
    except KDError:  # a damaged trial is none of this run's concern
        return None


def _trial(result: Mapping[str, Any], headline: str) -> Trial:
    student = result["student"]
    return Trial(result.get("settings", {}).get("seed", 0), student.get(headline), student.get(f"best_{headline}"))


def spread(scores: Sequence[float | None]) -> tuple[float, float] | None:
    """Mean and standard deviation of the scores of several trials; None of a single one."""
    known = [score for score in scores if score is not None]
    return (statistics.mean(known), statistics.stdev(known)) if len(known) > 1 else None
