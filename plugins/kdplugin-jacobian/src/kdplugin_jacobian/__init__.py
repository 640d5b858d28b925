"""Jacobian matching: the student's output learns to change with the image in the same direction as the teacher's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from kdengine import Distiller, Pair, Registrar, Step, TapError, TapPair, hookimpl, l2_normalize, resize_maps

__all__ = ["JacobianMatching", "input_gradient", "jacobian_loss", "largest_attention"]

# B: images of a batch, K: classes, D = C H W: values of an image.


def input_gradient(outputs_B: Tensor, images_BCHW: Tensor, create_graph: bool) -> Tensor:
    """Derivative of one output per image with respect to the images, [B, C, H, W]; the graph of the outputs is kept.

    Args:
        outputs_B: one output of the network for each image, [B].
        images_BCHW: the input of the network, requiring gradients, [B, C, H, W].
        create_graph: whether the derivative can be differentiated again.
    """
    (gradient,) = torch.autograd.grad(outputs_B.sum(), images_BCHW, create_graph=create_graph, retain_graph=True)
    return gradient


def jacobian_loss(student_BCHW: Tensor, teacher_BCHW: Tensor, reduction: str = "sum") -> Tensor:
    """Squared distance between two input gradients, each scaled to length 1 per image, mean over the batch; [].

    A zero gradient stays zero, and gets no gradient itself.

    Args:
        student_BCHW: input gradient of the student, [B, C, H, W].
        teacher_BCHW: that of the teacher, [B, C, H', W']; resized to the student's first.
        reduction: ``"sum"`` over the values of an image, or their ``"mean"``, which is C H W times smaller.
    """
    if teacher_BCHW.shape != student_BCHW.shape:
        teacher_BCHW = resize_maps(teacher_BCHW, student_BCHW.shape[2:])
    squared_BD = (l2_normalize(student_BCHW.flatten(1)) - l2_normalize(teacher_BCHW.flatten(1))).square()
    return squared_BD.mean() if reduction == "mean" else squared_BD.sum(1).mean()


def largest_attention(maps_BCHW: Tensor) -> Tensor:
    """The largest value of each attention map, the sum over channels of F^2: [B, C, H, W] -> [B]."""
    return maps_BCHW.square().sum(1).flatten(1).max(1).values


class JacobianMatching(Distiller):
    """Jacobian matching: the gradients of one output with respect to the image point the same way in both networks.

    beta mean_B || J_s / ||J_s|| - J_t / ||J_t|| ||^2, J = d output / d image

    Source: Srinivas, Fleuret, "Knowledge Transfer with Jacobian Matching", ICML 2018, arXiv:1803.00443; after Czarnecki
    et al., "Sobolev Training for Neural Networks", NeurIPS 2017, arXiv:1706.04859.
    """

    name = "jacobian"
    category = "multi-connection"
    groups = ("maps", "classic")
    taps = ("logits",)
    needs = ("input_gradients", "hard_labels")
    presets: ClassVar = {"zoo": {"beta": 20.0, "reduction": "mean"}}

    class Options(Distiller.Options):
        """Options of Jacobian matching."""

        beta: float = Field(1.0, ge=0)
        """Weight of the loss."""
        target: Literal["true_class", "teacher_top1", "attention_max"] = "true_class"
        """Differentiated output: the label's logit, that of the teacher's first choice, or the largest attention of a map."""
        reduction: Literal["sum", "mean"] = "sum"
        """Sum or mean over the values of an image; over the batch it is a mean either way."""

    options: Options

    def taps_in(self, phase: str) -> Sequence[str] | None:
        """The logits; with ``attention_max`` a map from the middle; or what the option names."""
        middle = self.options.target == "attention_max" and self.options.taps is None
        return ("stage2",) if middle else super().taps_in(phase)

    def build(self, pair: Pair) -> None:
        """Refuse taps of the wrong kind; there is nothing to build."""
        attention = self.options.target == "attention_max"
        words = "maps [B, C, H, W]" if attention else f"logits [B, {pair.num_classes}]"
        for tap in pair.pairs:
            shapes = [list(tensor.shape) for tensor in (tap.student, tap.teacher)]
            if not all(len(shape) == 4 if attention else shape[1:] == [pair.num_classes] for shape in shapes):
                raise TapError(
                    f"jacobian: at '{tap.name}' the student gives {shapes[0]} and the teacher {shapes[1]}, but the target "
                    f"'{self.options.target}' needs {words} on both sides. Name another tap, such as "
                    f"jacobian.taps='{'stage2' if attention else 'logits'}'."
                )

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The term ``gradients``, the sum over all taps."""
        losses = []
        for tap in step.pairs:
            student_B, teacher_B = self._outputs(tap, step.y)
            student_BCHW = input_gradient(student_B, step.student.input, create_graph=True)
            teacher_BCHW = input_gradient(teacher_B, step.teacher.input, create_graph=False)
            losses.append(jacobian_loss(student_BCHW, teacher_BCHW, self.options.reduction))
        return {"gradients": self.options.beta * torch.stack(losses).sum()}

    def _outputs(self, tap: TapPair, y_B: Tensor) -> tuple[Tensor, Tensor]:
        """The differentiated outputs of both networks, one per image: [B] and [B]."""
        if self.options.target == "attention_max":
            return largest_attention(tap.student), largest_attention(tap.teacher)
        classes_B = y_B if self.options.target == "true_class" else tap.teacher.argmax(1)
        student, teacher = (logits.gather(1, classes_B[:, None]).squeeze(1) for logits in (tap.student, tap.teacher))
        return student, teacher


@hookimpl
def kdengine_register(registry: Registrar) -> None:
    """Offer the method."""
    registry.distiller(JacobianMatching)
