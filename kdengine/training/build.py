"""Building lanes from methods and networks: their taps, phases and connectors."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from kdengine.config.settings import MANY, Settings
from kdengine.config.validation import shown
from kdengine.errors import SettingsError
from kdengine.methods.checks import check_shapes, views_of
from kdengine.methods.curriculum import Curriculum
from kdengine.methods.distiller import Distiller
from kdengine.methods.pair import Pair
from kdengine.methods.pairing import TapBinding, read_taps
from kdengine.methods.step import JOINT, Phase
from kdengine.methods.transform import StepTransform
from kdengine.networks.network import LaneContext
from kdengine.seeds import seeded
from kdengine.taps import Anatomy, Trace
from kdengine.taps.anatomy import TapPoint
from kdengine.tasks.task import Task
from kdengine.training.chain import ChainStep, chain
from kdengine.training.lane import Lane
from kdengine.training.lane_module import COPY, LaneModule, ResolvedPhase
from kdengine.training.pair_networks import BuildingNetworks
from kdengine.training.runtime import Runtime
from kdengine.training.sync_batchnorm import check_sync_batchnorm, synchronise
from kdengine.training.teacher import FrozenTeacher

__all__ = ["make_lane", "make_phases"]

UNMIXED = {"hard_labels": "one label for each image", "views:2": "two views of each image"}
"""What a method may need that mixing images rules out."""


def make_lane(
    name: str,
    context: LaneContext,
    distillers: Mapping[str, Distiller],
    settings: Settings,
    runtime: Runtime,
    steps: int,
    teachers: Sequence[FrozenTeacher] = (),
) -> Lane:
    """Build a lane, ready to train: drop distillers of weight 0, build connectors, resolve phases.

    Args:
        name: name of the lane.
        context: the networks.
        distillers: id -> distiller.
        settings: settings of the run.
        runtime: device and precision.
        steps: batches per epoch.
        teachers: run the context's teachers.

    Raises:
        KDError: the methods are incompatible with the networks or with each other.
    """
    active = {key: distiller for key, distiller in distillers.items() if distiller.options.weight > 0}
    _check_processes(active, runtime)
    if settings.train.sync_batchnorm:
        check_sync_batchnorm(runtime)
    _check_needs(active, context, settings)
    _check_teachers(active, context)
    links = chain(context, active)
    for student in [link.student for link, _ in links] if settings.train.sync_batchnorm else ():
        synchronise(student.module, runtime)
    steps_of_chain = [_chain_step(*link, settings, last=number == len(links)) for number, link in enumerate(links, 1)]
    curricula = [method for method in active.values() if isinstance(method, Curriculum)]
    teach_with = "last" if any(curriculum.teach_with == "last" for curriculum in curricula) else "best"
    return Lane(name, steps_of_chain, teachers if active else (), context.task, settings, runtime, steps, teach_with)


def _check_processes(distillers: Mapping[str, Distiller], runtime: Runtime) -> None:
    clipping = [key for key, distiller in distillers.items() if distiller.clips_to_task]
    if clipping and runtime.processes > 1:
        raise SettingsError(
            f"{clipping[0]} clips its gradient to that of the task, which works in a single process only; this run has "
            f"{runtime.processes} processes. Set {clipping[0]}.clip_to_task=false."
        )


def _check_needs(distillers: Mapping[str, Distiller], context: LaneContext, settings: Settings) -> None:
    """Refuse a method that needs what the data cannot give, or one label for each image in a run that mixes images."""
    for key, distiller in distillers.items():
        for need in distiller.needs:
            reason = context.lacks(need)
            if reason is not None:
                raise SettingsError(f"{key} needs {reason}")
    mixing = [name for name in ("mixup", "cutmix") if getattr(settings.train, name)]
    strict = {
        key: reason for key, distiller in distillers.items() for need, reason in UNMIXED.items() if need in distiller.needs
    }
    if mixing and strict:
        key, reason = next(iter(strict.items()))
        raise SettingsError(
            f"{key} needs {reason}, but train.{mixing[0]} mixes images and their labels. Leave out "
            f"{' and '.join(f'train.{name}' for name in mixing)}, or {key}."
        )


def _check_teachers(distillers: Mapping[str, Distiller], context: LaneContext) -> None:
    """Refuse a method that ships one network but would be used with several teachers, each of which would ship its own."""
    shipping = [
        key for key, distiller in distillers.items() if distiller.ships_a_network() and distiller.reads == "each-teacher"
    ]
    if shipping and len(context.teachers) > 1:
        raise SettingsError(
            f"{shipping[0]} ships a network made with one teacher, but this run has {len(context.teachers)} teachers. Name one."
        )


def _copies(distillers: Mapping[str, Distiller], teachers: int) -> dict[str, tuple[Distiller, int]]:
    """The distillers, and a copy of each for every further teacher unless it reads all of them; with the teacher's number."""
    copied = {
        f"{key}{COPY}{number + 1}": (copy.deepcopy(distiller), number)
        for number in range(1, teachers)
        for key, distiller in distillers.items()
        if distiller.reads == "each-teacher" and distiller.requires_teacher
    }
    return {**{key: (distiller, 0) for key, distiller in distillers.items()}, **copied}


def _chain_step(context: LaneContext, distillers: Mapping[str, Distiller], settings: Settings, last: bool) -> ChainStep:
    copies = _copies(distillers, len(context.teachers))
    every = {key: distiller for key, (distiller, _) in copies.items()}
    for distiller in every.values():
        distiller.suit(context.task.outputs)
    numbers = {key: number for key, (_, number) in copies.items()}
    phases = make_phases(every, context, settings.train.epochs, numbers)
    for number, (key, distiller) in enumerate(every.items()):
        bindings = [phase.bindings[key] for phase in phases if key in phase.bindings]
        _check_outputs(key, distiller, bindings, context.task)
        _build(distiller, bindings, context, settings.seed + number)
    student, train = context.student, settings.train
    frozen = train.freeze if last else ()
    module = LaneModule(
        student.module,
        every,
        context.task,
        student.preprocess,
        student.anatomy.classifier,
        frozen,
        compile=train.compile,
        batch_size=train.batch_size,
    )
    module.factories = context.factories
    return ChainStep(context.student, context.teachers, module, phases)


def make_phases(
    distillers: Mapping[str, Distiller], context: LaneContext, epochs: int, numbers: Mapping[str, int] | None = None
) -> list[ResolvedPhase]:
    """Resolve the phases of a lane: each method's own, in the order of the methods, then the joint one.

    Args:
        distillers: id -> distiller; copies of a method for further teachers share its phases.
        context: the networks.
        epochs: length of the joint phase.
        numbers: id -> number of the teacher that the distiller reads; the first by default.

    Raises:
        TapError: a tap matches nothing.
        SettingsError: a method reads no taps in a phase of its own.
    """
    numbers = numbers or {}
    phases = []
    for key, distiller in distillers.items():
        if COPY in key:
            continue
        for phase in distiller.phases():
            if not isinstance(phase, Phase):
                raise SettingsError(
                    f"{key}.phases() returned {shown(phase)} among its phases. Return a list of kdengine.Phase, such as "
                    '[Phase("hint", epochs=10)]. This is a bug in the plugin.'
                )
            length = _length(phase, epochs)
            users = {other: one for other, one in distillers.items() if other.partition(COPY)[0] == key}
            bound = {other: _binding(one, phase.name, context, numbers.get(other, 0)) for other, one in users.items()}
            bindings = {other: binding for other, binding in bound.items() if binding is not None}
            if key not in bindings:
                raise SettingsError(
                    f"{key} declares the phase '{phase.name}' but reads no taps in it: taps_in('{phase.name}') returned None. "
                    "Return the taps of the phase, () for none."
                )
            if length > 0:
                phases.append(_phase(phase, length, bindings, distillers))
    joint = {key: _binding(distiller, JOINT, context, numbers.get(key, 0)) for key, distiller in distillers.items()}
    bindings = {key: binding for key, binding in joint.items() if binding is not None}
    task_weight = math.prod(distiller.task_weight for key, distiller in distillers.items() if COPY not in key)
    return [*phases, _phase(Phase(JOINT, epochs, task=True), epochs, bindings, distillers, task_weight)]


def _phase(
    phase: Phase, epochs: int, bindings: Mapping[str, TapBinding], distillers: Mapping[str, Distiller], task_weight: float = 1.0
) -> ResolvedPhase:
    active = [distillers[key] for key in bindings]
    return ResolvedPhase(
        phase.name,
        epochs,
        phase.task,
        bindings,
        task_weight,
        input_gradients=any("input_gradients" in distiller.needs for distiller in active),
        needs_teacher=any(_is_taught(binding, distillers[key]) for key, binding in bindings.items()),
        views=max((views_of(distiller) for distiller in active), default=1),
    )


def _is_taught(binding: TapBinding, distiller: Distiller) -> bool:
    """Whether a method reads the teacher in a phase: its taps, or without any taps maybe its logits."""
    return bool(binding.teacher) or (distiller.requires_teacher and not binding.student)


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


def _binding(distiller: Distiller, phase: str, context: LaneContext, number: int) -> TapBinding | None:
    """What a distiller reads in a phase, of one teacher or of all of them."""
    if not context.teachers and distiller.requires_teacher:
        raise SettingsError(f"The method '{distiller.name}' needs a teacher. Name one with --teacher.")
    anatomies: list[Anatomy | None] = [teacher.anatomy for teacher in context.teachers]
    anatomies = anatomies or [None]
    first = read_taps(distiller, phase, context.student.anatomy, anatomies[number])
    if first is None or distiller.reads == "each-teacher":
        return first and replace(first, number=number)
    further = [read_taps(distiller, phase, context.student.anatomy, anatomy) for anatomy in anatomies[1:]]
    return replace(first, others=tuple(replace(part, number=n) for n, part in enumerate(further, 1) if part is not None))


def _build(distiller: Distiller, bindings: Sequence[TapBinding], context: LaneContext, seed: int) -> None:
    """Let a distiller create its connectors, with random draws that depend only on the seed and affect no others."""
    others = zip(*(binding.others for binding in bindings), strict=True)
    first, *further = (_pair(list(parts), context) for parts in (bindings, *others))
    for pair in (first, *further):
        check_shapes(distiller, pair)
    with seeded(seed):
        distiller.build(replace(first, others=tuple(further)))


def _check_outputs(key: str, distiller: Distiller, bindings: Sequence[TapBinding], task: Task) -> None:
    """Refuse a method that reads outputs or targets of a kind that it is not defined for.

    Raises:
        SettingsError: says what the method is defined for.
    """
    names = {name for binding in bindings for name in (*binding.student, *binding.teacher)}
    reads = "logits" in names or not names or {"labels", "hard_labels"} & set(distiller.needs)
    transforms = isinstance(distiller, StepTransform)  # it has no bindings, and changes logits
    if (bindings or transforms) and reads and task.outputs not in distiller.serves:
        taps = f"{key}.taps={'stages' if task.outputs == 'pixels' else 'embedding'}"
        advice = f"Use another method, or one that reads features alone, such as with {taps}."
        raise SettingsError(
            f"{key} is defined for {' and '.join(distiller.serves)}, but the outputs of the task '{task.name}' are "
            f"{task.outputs}. {f'Leave {key} out.' if transforms else advice}"
        )


def _pair(bindings: Sequence[TapBinding], context: LaneContext) -> Pair:
    """The networks as a distiller sees them that reads these taps, of one teacher, in its phases."""
    student, number = context.student, bindings[0].number if bindings else 0
    teacher = context.teachers[number] if context.teachers else None
    shown = [(binding.teacher, binding.teacher_aliases) for binding in bindings]
    return Pair(
        student=_shapes(student.anatomy, [(binding.student, binding.student_aliases) for binding in bindings]),
        teacher=Trace({}) if teacher is None else _shapes(teacher.anatomy, shown),
        num_classes=context.task.num_outputs,
        num_samples=context.num_samples,
        new_network=context.maker_for(number),
        names=tuple(dict.fromkeys(pair for binding in bindings for pair in binding.names)),
        rectified=frozenset().union(*(binding.rectified for binding in bindings)),
        labels=context.labels,
        student_taps=tuple(dict.fromkeys(name for binding in bindings for name in binding.student_only)),
        teacher_taps=tuple(dict.fromkeys(name for binding in bindings for name in binding.teacher_only)),
        networks=BuildingNetworks(student, teacher),
        has_teacher=teacher is not None,
        outputs=context.task.outputs,
    )


def _shapes(anatomy: Anatomy, parts: Sequence[tuple[Mapping[str, TapPoint], Mapping[str, str]]]) -> Trace:
    tensors = {name: anatomy.tensor(point) for points, _ in parts for name, point in points.items()}
    aliases = {new: old for _, names in parts for new, old in names.items()}
    return Trace(tensors, anatomy.probe.logits).renamed({**{name: name for name in tensors}, **aliases})
