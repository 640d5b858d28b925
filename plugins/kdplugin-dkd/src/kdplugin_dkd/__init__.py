"""Decoupled knowledge distillation: the class of an image and all other classes are matched apart."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from kdengine import Distiller, Pair, Registrar, SettingsError, Step, hookimpl, warmup

__all__ = ["DKD", "decoupled_label_losses", "decoupled_losses"]

# B: images of a batch, K: classes.


def _odds(log_p_BK: Tensor, classes_B: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithms of the share of an image's class, and of all others together, [B] each.

    The latter is summed from the others' own shares: one minus the share of the class would cancel to zero.
    """
    itself_BK = F.one_hot(classes_B, log_p_BK.shape[1]).bool()
    others_B = log_p_BK.masked_fill(itself_BK, -torch.inf).logsumexp(1)
    return log_p_BK.gather(1, classes_B[:, None])[:, 0], others_B


def _others(log_p_BK: Tensor, classes_B: Tensor) -> Tensor:
    """Log-shares of the classes but an image's own, which sum to one; 0 at its own class. [B, K] -> [B, K]."""
    itself_BK = F.one_hot(classes_B, log_p_BK.shape[1]).bool()
    rest_BK = log_p_BK.masked_fill(itself_BK, -torch.inf)
    return (rest_BK - rest_BK.logsumexp(1, keepdim=True)).masked_fill(itself_BK, 0.0)


def decoupled_losses(student_BK: Tensor, teacher_BK: Tensor, classes_B: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The two parts of KL(p || q), p = softmax(teacher / T), q = softmax(student / T): KL = target + (1 - p_y) rest.

    target: KL of the two shares (p_y, 1 - p_y). rest: KL of the other classes among one another.

    Args:
        student_BK: logits of the student, [B, K], K > 2.
        teacher_BK: logits of the teacher, [B, K].
        classes_B: class of each image, int64 [B].
        temperature: T > 0, dimensionless.

    Returns:
        target and rest, each the mean over the batch [], without the factor T^2.
    """
    log_q_BK, log_p_BK = (F.log_softmax(logits_BK / temperature, dim=1) for logits_BK in (student_BK, teacher_BK))
    ours_B, theirs_B = _odds(log_q_BK, classes_B), _odds(log_p_BK, classes_B)
    target_B = sum(theirs.exp() * (theirs - ours) for theirs, ours in zip(theirs_B, ours_B, strict=True))
    assert isinstance(target_B, Tensor)
    log_q_BK, log_p_BK = (_others(log_BK, classes_B) for log_BK in (log_q_BK, log_p_BK))
    rest_BK = log_p_BK.exp() * (log_p_BK - log_q_BK)
    return target_B.mean(), rest_BK.sum(1).mean()


def decoupled_label_losses(
    student_BK: Tensor, teacher_BK: Tensor, labels_BK: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """The same for independent labels: the divergences of the labels that an image has, and of those that it lacks.

    A label's divergence is KL of (p, 1 - p) from (q, 1 - q), p = sigmoid(teacher / T), q = sigmoid(student / T).

    Args:
        student_BK: logits of the student, [B, K].
        teacher_BK: logits of the teacher, [B, K].
        labels_BK: which labels an image has, [B, K]; a share of at least one half counts.
        temperature: T > 0, dimensionless.

    Returns:
        target and rest, sums over the labels divided by their number, means over the batch [], without the factor T^2.
        Together they are the divergence of soft targets.
    """
    student_BK, teacher_BK = student_BK / temperature, teacher_BK / temperature
    divergence_BK = sum(
        torch.sigmoid(sign * teacher_BK) * (F.logsigmoid(sign * teacher_BK) - F.logsigmoid(sign * student_BK))
        for sign in (1, -1)
    )
    assert isinstance(divergence_BK, Tensor)
    given_BK = labels_BK >= 0.5
    return (divergence_BK * given_BK).mean(), (divergence_BK * ~given_BK).mean()


class DKD(Distiller):
    """Decoupled distillation: match how sure the teacher is of the class, and apart from it how the others compare.

    ramp T^2 (alpha KL(b(p) || b(q)) + beta KL(p^ || q^))

    Of independent labels, those that an image has and those that it lacks are apart; see :func:`decoupled_label_losses`.

    Source: Zhao, Cui, Song, Qiu, Liang, "Decoupled Knowledge Distillation", CVPR 2022, arXiv:2203.08679.
    """

    name = "dkd"
    category = "response"
    groups = ("logits", "modern")
    taps = ("logits",)
    takes = "logits"
    needs = ("labels",)
    serves = ("classes", "labels")
    outputs = "classes"
    """What the logits are; for ``labels``, each has a sigmoid of its own."""
    presets: ClassVar = {
        "resnet56-resnet20": {"beta": 2.0},
        "resnet110-resnet32": {"beta": 2.0},
        "resnet32x4-resnet8x4": {"beta": 8.0},
        "wrn_40_2-wrn_16_2": {"beta": 6.0},
        "wrn_40_2-wrn_40_1": {"beta": 6.0},
        "cifar_vgg13-vgg8": {"beta": 6.0},
        "cifar_vgg13-cifar_mobilenetv2_half": {"beta": 6.0},
        "cifar_resnet50-cifar_mobilenetv2_half": {"beta": 8.0},
        "resnet32x4-shufflenetv1": {"beta": 8.0},
        "resnet32x4-shufflenetv2": {"beta": 8.0},
        "wrn_40_2-shufflenetv1": {"beta": 8.0},
        "imagenet": {"beta": 0.5, "temperature": 1.0, "warmup_epochs": 1.0},
    }

    class Options(Distiller.Options):
        """Options of decoupled distillation."""

        alpha: float = Field(1.0, ge=0)
        """Weight of the term of the image's own class."""
        beta: float = Field(8.0, ge=0)
        """Weight of the term of the other classes."""
        temperature: float = Field(4.0, gt=0)
        """Temperature T of all softmaxes."""
        warmup_epochs: float = Field(20.0, ge=0)
        """Epochs over which the weight rises linearly; 0 starts with all of it."""
        warmup_share: float = Field(1 / 12, ge=0, le=1)
        """Most of the run that the rise may take; 1/12 are the published 20 epochs of 240."""

    options: Options

    def build(self, pair: Pair) -> None:
        """Look at what the logits are, and refuse data of two classes.

        Raises:
            SettingsError: there are fewer than three classes.
        """
        self.outputs = pair.outputs
        if pair.num_classes < 3 and self.outputs == "classes":
            raise SettingsError(
                f"dkd compares all classes but an image's own, and with {pair.num_classes} classes there is nothing to "
                "compare. Use st, which is the same for two classes."
            )

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The terms ``target`` and ``rest``, each the sum over all taps."""
        temperature = self.options.temperature
        if self.outputs == "labels":
            assert step.y is not None  # a method that needs labels has some
            pairs = [decoupled_label_losses(tap.student, tap.teacher, step.y, temperature) for tap in step.pairs]
        else:
            pairs = [decoupled_losses(tap.student, tap.teacher, step.classes, temperature) for tap in step.pairs]
        targets, rests = zip(*pairs, strict=True)
        factor = temperature**2 * warmup(step, self.options.warmup_epochs, self.options.warmup_share)
        return {
            "target": factor * self.options.alpha * torch.stack(targets).sum(),
            "rest": factor * self.options.beta * torch.stack(rests).sum(),
        }


@hookimpl
def kdengine_register(registry: Registrar) -> None:
    """Offer the method."""
    registry.distiller(DKD)
