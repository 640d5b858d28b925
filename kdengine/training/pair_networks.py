"""What a method may ask of the two networks themselves when it builds its connectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kdengine.errors import ModelError, SettingsError, TapError
from kdengine.methods.head import Head, MeanOf, ModuleView
from kdengine.networks.modes import evaluating
from kdengine.networks.network import Network
from kdengine.seeds import seeded
from kdengine.taps import Recorder
from kdengine.taps.anatomy import TapPoint
from kdengine.taps.backbone import Backbone, modules_behind

__all__ = ["BuildingNetworks"]

TOLERANCE = 1e-3
"""Largest difference between the logits and what the classifier makes of the embedding, relative to the largest logit."""


@dataclass(frozen=True)
class BuildingNetworks:
    """Answers a pair's questions about its networks.

    Attributes:
        student: the network to train.
        teacher: the network to learn from, if any.
    """

    student: Network
    teacher: Network | None

    def teacher_head(self) -> Head:
        """The teacher's classifier, frozen but differentiable; of several that read the same embedding, the mean.

        Raises:
            ModelError: it has none, or the logits are more than what that makes of the embedding.
        """
        teacher = self._teacher
        path = teacher.anatomy.classifier
        if path is None:
            raise ModelError(
                f"{teacher.name} has no classifier that a method could use. Use another teacher, or another method."
            )
        module, paths = teacher.module, teacher.anatomy.classifiers
        heads = [Head(lambda: module.get_submodule(path))]
        heads += [Head(lambda: MeanOf([module.get_submodule(each) for each in paths]))] if len(paths) > 1 else []
        fitting = _fitting(heads, teacher)
        if fitting is None:
            raise ModelError(
                f"The logits of {teacher.name} are more than what its classifier '{path}' makes of the embedding, so a method "
                "cannot use that alone. Use another teacher, or another method."
            )
        return fitting

    def teacher_module(self, tap: str, kind: type[nn.Module] | None) -> ModuleView:
        """Read-only access to the module at a tap, or to the last one of a kind before it.

        Raises:
            TapError: there is no such module.
        """
        teacher = self._teacher
        points = teacher.anatomy.resolve(tap)
        if len(points) > 1:
            raise TapError(f"'{tap}' stands for {len(points)} taps of {teacher.name}, {', '.join(points)}. Name one of them.")
        (point,) = points.values()
        module = teacher.module
        path = point.path if kind is None else _last_of(kind, point, teacher)
        return ModuleView(lambda: module.get_submodule(path))

    def student_until(self, tap: str) -> Callable[[nn.Module], nn.Module]:
        """A function that cuts the student behind a tap."""
        student = self.student
        (point,) = student.anatomy.resolve(tap).values()
        behind = modules_behind(student.module, student.anatomy, point, student.input_size)
        return lambda network: Backbone(network, point, behind)

    @property
    def _teacher(self) -> Network:
        if self.teacher is None:
            raise SettingsError("A method asks for the teacher, and there is none. Name one with --teacher.")
        return self.teacher


def _fitting(heads: Sequence[Head], network: Network) -> Head | None:
    """The first head that makes the logits of noise images out of their embedding; the first of all without values."""
    points = network.anatomy.resolve_all(("embedding", "logits"))
    parameter = next(network.module.parameters())
    if any(value.is_meta for value in network.module.parameters()):
        return heads[0]
    with seeded(0), evaluating(network.module) as module, Recorder(module, points) as recorder:
        images = torch.randn(2, *network.input_size).to(parameter.device, parameter.dtype)
        trace = recorder(images)
        found = (head for head in heads if _agree(head(trace["embedding"]), trace.logits))
        return next(found, None)


def _agree(made: Tensor, logits: Tensor) -> bool:
    return made.shape == logits.shape and bool((made - logits).abs().max() <= TOLERANCE * logits.abs().max())


def _last_of(kind: type[nn.Module], point: TapPoint, network: Network) -> str:
    """Path of the last module of a kind that ran before the tensor at a point was there, as wide as that."""
    anatomy = network.anatomy
    width, when = anatomy.tensor(point).shape[1], anatomy.when(point)
    modules = dict(network.module.named_modules())
    for call in reversed(anatomy.calls):
        module = modules.get(call.path)
        wide = call.output is not None and call.output.ndim > 1 and call.output.shape[1] == width
        inside = point.path.startswith(f"{call.path}.")  # such as an activation that belongs to the normalisation
        if isinstance(module, kind) and wide and (call.finished <= when or inside):
            return call.path
    raise TapError(f"{network.name} has no {kind.__name__} of {width} channels before {point}.")
