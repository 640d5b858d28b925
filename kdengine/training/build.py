"""Building lanes from methods and networks: their taps, phases and connectors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from kdengine.config.settings import MANY, Settings
from kdengine.config.validation import shown
from kdengine.errors import SettingsError
from kdengine.methods.checks import check_shapes
from kdengine.methods.curriculum import Curriculum
from kdengine.methods.distiller import Distiller
from kdengine.methods.pairing import TapBinding, read_taps
from kdengine.methods.step import JOINT, Pair, Phase
from kdengine.networks.network import LaneContext
from kdengine.seeds import seeded
from kdengine.taps import Anatomy, Trace
from kdengine.taps.anatomy import TapPoint
from kdengine.training.chain import ChainStep, chain
from kdengine.training.lane import Lane
from kdengine.training.lane_module import LaneModule, ResolvedPhase
from kdengine.training.runtime import Runtime
from kdengine.training.teacher import FrozenTeacher

__all__ = ["make_lane", "make_phases"]


def make_lane(
    name: str,
    context: LaneContext,
    distillers: Mapping[str, Distiller],
    settings: Settings,
    runtime: Runtime,
    steps: int,
    teacher: FrozenTeacher | None = None,
) -> Lane:
    """Build a lane, ready to train: drop distillers of weight 0, build connectors, resolve phases.

    Args:
        name: name of the lane.
        context: the networks.
        distillers: id -> distiller.
        settings: settings of the run.
        runtime: device and precision.
        steps: batches per epoch.
        teacher: runs the context's teacher, if any.

    Raises:
        KDError: the methods are incompatible with the networks or with each other.
    """
    active = {key: distiller for key, distiller in distillers.items() if distiller.options.weight > 0}
    _check_processes(active, runtime)
    _check_labels(active, settings)
    links = chain(context, active)
    steps_of_chain = [_chain_step(*link, settings, last=number == len(links)) for number, link in enumerate(links, 1)]
    curricula = [method for method in active.values() if isinstance(method, Curriculum)]
    teach_with = "last" if any(curriculum.teach_with == "last" for curriculum in curricula) else "best"
    return Lane(name, steps_of_chain, teacher if active else None, context.task, settings, runtime, steps, teach_with)


def _check_processes(distillers: Mapping[str, Distiller], runtime: Runtime) -> None:
    clipping = [key for key, distiller in distillers.items() if distiller.clips_to_task]
    if clipping and runtime.processes > 1:
        raise SettingsError(
            f"{clipping[0]} clips its gradient to that of the task, which works in a single process only; this run has "
            f"{runtime.processes} processes. Set {clipping[0]}.clip_to_task=false."
        )


def _check_labels(distillers: Mapping[str, Distiller], settings: Settings) -> None:
    """Refuse a method that needs class indices in a run that mixes images, whose targets are shares of classes."""
    mixing = [name for name in ("mixup", "cutmix") if getattr(settings.train, name)]
    strict = [key for key, distiller in distillers.items() if "hard_labels" in distiller.needs]
    if mixing and strict:
        raise SettingsError(
            f"{strict[0]} needs one label for each image, but train.{mixing[0]} mixes images and their labels. Leave out "
            f"{' and '.join(f'train.{name}' for name in mixing)}, or {strict[0]}."
        )


def _chain_step(context: LaneContext, distillers: Mapping[str, Distiller], settings: Settings, last: bool) -> ChainStep:
    phases = make_phases(distillers, context, settings.train.epochs)
    for number, (key, distiller) in enumerate(distillers.items()):
        _build(distiller, [phase.bindings[key] for phase in phases if key in phase.bindings], context, settings.seed + number)
    student, train = context.student, settings.train
    frozen = train.freeze if last else ()
    module = LaneModule(
        student.module, distillers, context.task, student.preprocess, student.anatomy.classifier, frozen, train.compile
    )
    module.factories = context.factories
    return ChainStep(context.student, context.teacher, module, phases)


def make_phases(distillers: Mapping[str, Distiller], context: LaneContext, epochs: int) -> list[ResolvedPhase]:
    """Resolve the phases of a lane: each method's own, in the order of the methods, then the joint one.

    Raises:
        TapError: a tap matches nothing.
        SettingsError: a method reads no taps in a phase of its own.
    """
    phases = []
    for key, distiller in distillers.items():
        for phase in distiller.phases():
            length = _length(phase, epochs)
            binding = _binding(distiller, phase.name, context)
            if binding is None:
                raise SettingsError(
                    f"{key} declares the phase '{phase.name}' but reads no taps in it: taps_in('{phase.name}') returned None. "
                    "Return the taps of the phase, () for none."
                )
            if length > 0:
                phases.append(_phase(phase, length, {key: binding}, distillers))
    joint = {key: _binding(distiller, JOINT, context) for key, distiller in distillers.items()}
    bindings = {key: binding for key, binding in joint.items() if binding is not None}
    task_weight = math.prod(distiller.task_weight for distiller in distillers.values())
    return [*phases, _phase(Phase(JOINT, epochs, task=True), epochs, bindings, distillers, task_weight)]


def _phase(
    phase: Phase, epochs: int, bindings: Mapping[str, TapBinding], distillers: Mapping[str, Distiller], task_weight: float = 1.0
) -> ResolvedPhase:
    differentiated = any("input_gradients" in distillers[key].needs for key in bindings)
    taught = any(binding.teacher or distillers[key].requires_teacher for key, binding in bindings.items())
    return ResolvedPhase(phase.name, epochs, phase.task, bindings, task_weight, differentiated, taught)


def _length(phase: Phase, epochs: int) -> int:
    """Epochs of a phase; a share of the joint epochs is rounded up, ignoring floating-point error.

    Raises:
        SettingsError: the phase would be too long.
    """
    wanted = round(phase.epochs * epochs, 6) if isinstance(phase.epochs, float) else phase.epochs
    if not wanted <= MANY:
        raise SettingsError(
            f"The phase '{phase.name}' would last {shown(wanted)} epochs; at most {MANY} are allowed. Shorten it."
        )
    return math.ceil(wanted)


def _binding(distiller: Distiller, phase: str, context: LaneContext) -> TapBinding | None:
    if context.teacher is None:
        raise SettingsError(f"The method '{distiller.name}' needs a teacher. Name one with --teacher.")
    return read_taps(distiller, phase, context.student.anatomy, context.teacher.anatomy)


def _build(distiller: Distiller, bindings: Sequence[TapBinding], context: LaneContext, seed: int) -> None:
    """Let a distiller create its connectors, with random draws that depend only on the seed and affect no others."""
    assert context.teacher is not None
    names = tuple(dict.fromkeys(pair for binding in bindings for pair in binding.names))
    pair = Pair(
        student=_shapes(context.student.anatomy, [(binding.student, binding.student_aliases) for binding in bindings]),
        teacher=_shapes(context.teacher.anatomy, [(binding.teacher, binding.teacher_aliases) for binding in bindings]),
        num_classes=context.task.num_outputs,
        num_samples=context.num_samples,
        new_network=context.new_network,
        names=names,
        rectified=frozenset().union(*(binding.rectified for binding in bindings)),
    )
    check_shapes(distiller, pair)
    with seeded(seed):
        distiller.build(pair)


def _shapes(anatomy: Anatomy, parts: Sequence[tuple[Mapping[str, TapPoint], Mapping[str, str]]]) -> Trace:
    tensors = {name: anatomy.tensor(point) for points, _ in parts for name, point in points.items()}
    aliases = {new: old for _, names in parts for new, old in names.items()}
    return Trace(tensors, anatomy.probe.logits).renamed({**{name: name for name in tensors}, **aliases})
