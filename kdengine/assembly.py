"""From settings to lanes: which methods, with which options, on which taps, in which stages."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from kdengine.checks import check_contract, check_shapes
from kdengine.distiller import Distiller
from kdengine.step import JOINT, Pair, Stage
from kdengine.errors import KDError, ModelError, SettingsError, did_you_mean
from kdengine.lane import Lane
from kdengine.lane_module import LaneModule, Phase
from kdengine.pairing import Reading, read_taps
from kdengine.registry import Registry
from kdengine.runtime import Runtime
from kdengine.settings import Settings
from kdengine.source import LOADERS
from kdengine.taps import Anatomy, Trace
from kdengine.taps.anatomy import Site

__all__ = ["Network", "Pupil", "checked_settings", "choose_distillers", "make_lane", "make_phases", "resolved"]


@dataclass(frozen=True)
class Network:
    """A network with its name and its anatomy."""

    name: str
    module: nn.Module
    anatomy: Anatomy

    @classmethod
    def probed(cls, name: str, module: nn.Module, input_size: Sequence[int], num_classes: int) -> Network:
        """Probe the network, and check that it tells as many classes apart as the data has.

        Raises:
            TapError: it does not accept the input.
            ModelError: its output is not [B, num_classes].
        """
        anatomy = Anatomy.of(module, input_size, name)
        shape = tuple(anatomy.probe.logits.shape)
        if shape[1:] != (num_classes,):
            raise ModelError(
                f"'{name}' returns {list(shape)} for a batch of {shape[0]}, but the data has {num_classes} classes: "
                f"[{shape[0]}, {num_classes}] is needed. Give it as many outputs as classes."
            )
        return cls(name, module, anatomy)


@dataclass(frozen=True)
class Pupil:
    """What a lane is made of besides its methods: the networks, the data's sizes, and how to make further networks.

    Attributes:
        student: the network to train.
        teacher: the network to learn from, if any.
        num_classes: classes K of the data.
        num_samples: images in the training set.
        new_network: makes a network with fresh weights from a model spec, ``"student"`` or ``"teacher"``.
    """

    student: Network
    teacher: Network | None
    num_classes: int
    num_samples: int
    new_network: Callable[[str], nn.Module]


def choose_distillers(
    plugins: Iterable[str | Distiller], options: Mapping[str, Mapping[str, object]], registry: Registry
) -> dict[str, Distiller]:
    """The distillers of a lane by id: a method's name, with ``-2`` for its second use.

    Args:
        plugins: method names, distributions, files, or distillers made by the caller.
        options: id -> options, for those named by text.
        registry: where names are looked up.

    Raises:
        PluginError: a plugin is unknown, ambiguous or broken.
        SettingsError: with every fault in the options of all methods.
    """
    chosen: dict[str, type[Distiller] | Distiller] = {}
    for plugin in plugins:
        for method in [plugin] if isinstance(plugin, Distiller) else registry.methods(plugin):
            uses = sum(found.name == method.name for found in chosen.values())
            chosen[method.name if not uses else f"{method.name}-{uses + 1}"] = method
    faults = [_unknown_method(key, chosen) for key in options if key not in chosen]
    faults += [_given_as_object(key) for key in options if isinstance(chosen.get(key), Distiller)]
    made: dict[str, Distiller] = {}
    for key, method in chosen.items():
        try:
            made[key] = method if isinstance(method, Distiller) else method(**options.get(key, {}))
        except SettingsError as error:
            faults.append(str(error))
    if faults:
        raise SettingsError("\n".join(faults))
    return made


def checked_settings(values: Mapping[str, Any], plugins: Sequence[str | Distiller], registry: Registry) -> Settings:
    """Settings from plain values; where they have faults, those in the options of the methods are said with them.

    Raises:
        SettingsError: with every fault found.
    """
    try:
        return Settings.checked(values)
    except SettingsError as error:
        faults = [str(error)]
    options = values.get("options", {})
    if isinstance(options, Mapping) and all(isinstance(given, Mapping) for given in options.values()):
        try:
            choose_distillers([plugins] if isinstance(plugins, str) else plugins, options, registry)
        except KDError as error:
            faults.append(str(error))
    raise SettingsError("\n".join(faults))


def resolved(settings: Settings, distillers: Mapping[str, Distiller], own_loaders: bool = False) -> Settings:
    """The settings that a run folder keeps: with every option of every method, so that the run can be repeated.

    Args:
        settings: as they were given.
        distillers: id -> distiller.
        own_loaders: whether the batches come from loaders of the caller.
    """
    options = {key: distiller.options.model_dump(mode="json", exclude_none=True) for key, distiller in distillers.items()}
    return settings.model_copy(update={"options": options, **({"data": LOADERS} if own_loaders else {})})


def _given_as_object(key: str) -> str:
    return f"Options are given for '{key}', but it came as an object: give them to its class, {key}(NAME=VALUE)."


def _unknown_method(key: str, chosen: Mapping[str, object]) -> str:
    sections = [*chosen, "train", "teacher_train"]
    near = did_you_mean(key, sections) or f"This run has {', '.join(sections)}."
    return f"Options are given for '{key}', which is no method of this run. {near}"


def make_lane(
    name: str, pupil: Pupil, distillers: Mapping[str, Distiller], settings: Settings, runtime: Runtime, steps: int
) -> Lane:
    """A lane, ready to train: distillers that are switched off left out, connectors built, stages laid out."""
    active = {key: distiller for key, distiller in distillers.items() if distiller.options.weight > 0}
    phases = make_phases(active, pupil, settings.train.epochs)
    for number, (key, distiller) in enumerate(active.items()):
        _build(distiller, [phase.readings[key] for phase in phases if key in phase.readings], pupil, settings.seed + number)
    module = LaneModule(pupil.student.module, active, settings.train.label_smoothing)
    teacher = pupil.teacher.name if pupil.teacher and active else None
    return Lane(name, module, phases, teacher, settings.train, settings.seed, runtime, steps)


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
                phases.append(Phase(stage, length, {key: reading}))
    found = {key: _reading(distiller, JOINT, pupil) for key, distiller in distillers.items()}
    readings = {key: reading for key, reading in found.items() if reading is not None}
    task_weight = math.prod(distiller.task_weight for distiller in distillers.values())
    return [*phases, Phase(Stage(JOINT, epochs, task=True), epochs, readings, task_weight)]


def _length(stage: Stage, epochs: int) -> int:
    """Epochs of a stage; a share of the joint epochs is rounded up, but not for what binary fractions add to it."""
    return math.ceil(round(stage.epochs * epochs, 6)) if isinstance(stage.epochs, float) else stage.epochs


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
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would touch the accelerators' generators too
        distiller.build(pair)


def _shapes(anatomy: Anatomy, parts: Sequence[tuple[Mapping[str, Site], Mapping[str, str]]]) -> Trace:
    tensors = {name: anatomy.tensor(site) for sites, _ in parts for name, site in sites.items()}
    aliases = {new: old for _, names in parts for new, old in names.items()}
    return Trace(tensors, anatomy.probe.logits).renamed({**{name: name for name in tensors}, **aliases})


def fresh_copies(module: nn.Module) -> Callable[[], nn.Module]:
    """A maker of copies of a network as it is now, for students that came as modules."""
    pristine = copy.deepcopy(module)
    return lambda: copy.deepcopy(pristine)
