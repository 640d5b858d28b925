"""From methods and networks to lanes: on which taps, in which stages, with which connectors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from kdengine.config.settings import MANY, Settings
from kdengine.config.validation import shown
from kdengine.errors import SettingsError
from kdengine.methods.checks import check_shapes
from kdengine.methods.distiller import Distiller
from kdengine.methods.pairing import Reading, read_taps
from kdengine.methods.step import JOINT, Pair, Stage
from kdengine.networks.network import Pupil
from kdengine.seeds import seeded
from kdengine.taps import Anatomy, Trace
from kdengine.taps.anatomy import Site
from kdengine.training.chain import chain
from kdengine.training.chain_step import Link
from kdengine.training.lane import Lane
from kdengine.training.lane_module import LaneModule, Phase
from kdengine.training.runtime import Runtime
from kdengine.training.teacher import TeacherPass

__all__ = ["make_lane", "make_phases"]


def make_lane(
    name: str,
    pupil: Pupil,
    distillers: Mapping[str, Distiller],
    settings: Settings,
    runtime: Runtime,
    steps: int,
    teacher: TeacherPass | None = None,
) -> Lane:
    """A lane, ready to train: distillers that are switched off left out, connectors built, stages laid out.

    Args:
        name: of the lane.
        pupil: the networks.
        distillers: id -> distiller.
        settings: of the run.
        runtime: where it runs.
        steps: batches in an epoch.
        teacher: what runs the pupil's teacher, where there is one.

    Raises:
        KDError: the methods do not fit the networks, or each other.
    """
    active = {key: distiller for key, distiller in distillers.items() if distiller.options.weight > 0}
    _check_processes(active, runtime)
    links = [_link(taught, methods, settings) for taught, methods in chain(pupil, active)]
    hand_over = "last" if any(method.hand_over == "last" for method in active.values()) else "best"
    return Lane(name, links, teacher if active else None, settings.train, settings.seed, runtime, steps, hand_over)


def _check_processes(distillers: Mapping[str, Distiller], runtime: Runtime) -> None:
    clipping = [key for key, distiller in distillers.items() if distiller.options.clip_to_task]
    if clipping and runtime.processes > 1:
        raise SettingsError(
            f"{clipping[0]}.clip_to_task works in one process only, and there are {runtime.processes}. "
            f"Set {clipping[0]}.clip_to_task=false."
        )


def _link(pupil: Pupil, distillers: Mapping[str, Distiller], settings: Settings) -> Link:
    phases = make_phases(distillers, pupil, settings.train.epochs)
    for number, (key, distiller) in enumerate(distillers.items()):
        _build(distiller, [phase.readings[key] for phase in phases if key in phase.readings], pupil, settings.seed + number)
    module = LaneModule(pupil.student.module, distillers, settings.train.label_smoothing, pupil.student.fit)
    return Link(pupil.student, pupil.teacher, module, phases)


def make_phases(distillers: Mapping[str, Distiller], pupil: Pupil, epochs: int) -> list[Phase]:
    """The stages of a lane: each method's own, in the order of the methods, then the joint one.

    Raises:
        TapError: a tap names nothing.
        SettingsError: a method reads nothing in a stage of its own.
    """
    phases = []
    for key, distiller in distillers.items():
        for stage in distiller.stages():
            length = _length(stage, epochs)
            reading = _reading(distiller, stage.name, pupil)
            if reading is None:
                raise SettingsError(
                    f"{key} has a stage '{stage.name}' but reads no taps in it: taps_in('{stage.name}') is None."
                )
            if length > 0:
                phases.append(_phase(stage, length, {key: reading}, distillers))
    found = {key: _reading(distiller, JOINT, pupil) for key, distiller in distillers.items()}
    readings = {key: reading for key, reading in found.items() if reading is not None}
    task_weight = math.prod(distiller.task_weight for distiller in distillers.values())
    return [*phases, _phase(Stage(JOINT, epochs, task=True), epochs, readings, distillers, task_weight)]


def _phase(
    stage: Stage, epochs: int, readings: Mapping[str, Reading], distillers: Mapping[str, Distiller], task_weight: float = 1.0
) -> Phase:
    differentiated = any("input_gradients" in distillers[key].needs for key in readings)
    return Phase(stage, epochs, readings, task_weight, differentiated)


def _length(stage: Stage, epochs: int) -> int:
    """Epochs of a stage; a share of the joint epochs is rounded up, but not for what binary fractions add to it.

    Raises:
        SettingsError: no run has so many.
    """
    wanted = round(stage.epochs * epochs, 6) if isinstance(stage.epochs, float) else stage.epochs
    if not wanted <= MANY:
        raise SettingsError(f"The stage '{stage.name}' would last {shown(wanted)} epochs: {MANY} is the most.")
    return math.ceil(wanted)


def _reading(distiller: Distiller, stage: str, pupil: Pupil) -> Reading | None:
    if pupil.teacher is None:
        raise SettingsError(f"The method '{distiller.name}' needs a teacher. Name one with --teacher.")
    return read_taps(distiller, stage, pupil.student.anatomy, pupil.teacher.anatomy)


def _build(distiller: Distiller, readings: Sequence[Reading], pupil: Pupil, seed: int) -> None:
    """Let a distiller create its connectors; its draws depend on the seed and disturb nobody else's."""
    assert pupil.teacher is not None
    names = tuple(dict.fromkeys(pair for reading in readings for pair in reading.names))
    pair = Pair(
        student=_shapes(pupil.student.anatomy, [(reading.student, reading.student_aliases) for reading in readings]),
        teacher=_shapes(pupil.teacher.anatomy, [(reading.teacher, reading.teacher_aliases) for reading in readings]),
        num_classes=pupil.num_classes,
        num_samples=pupil.num_samples,
        new_network=pupil.new_network,
        names=names,
        rectified=frozenset().union(*(reading.rectified for reading in readings)),
    )
    check_shapes(distiller, pair)
    with seeded(seed):
        distiller.build(pair)


def _shapes(anatomy: Anatomy, parts: Sequence[tuple[Mapping[str, Site], Mapping[str, str]]]) -> Trace:
    tensors = {name: anatomy.tensor(site) for sites, _ in parts for name, site in sites.items()}
    aliases = {new: old for _, names in parts for new, old in names.items()}
    return Trace(tensors, anatomy.probe.logits).renamed({**{name: name for name in tensors}, **aliases})
