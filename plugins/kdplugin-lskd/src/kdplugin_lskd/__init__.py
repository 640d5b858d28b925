"""Logit standardisation: what a method reads as the logits of student and teacher is their z-score."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from torch import Tensor

from kdengine import Pair, Registrar, SettingsError, Step, StepTransform, hookimpl

__all__ = ["LogitStandardisation", "standardised"]


def standardised(logits_BK: Tensor, floor: float) -> Tensor:
    """The z-score of the logits of each image over its classes: mean 0 and, where the logits differ, standard deviation 1.

    (z - mean z) / max(std z, floor), with the unbiased standard deviation.

    Args:
        logits_BK: [B, K], K > 1.
        floor: least standard deviation to divide by; the gradient of the result is at most 1 / floor.

    Returns:
        [B, K].
    """
    centred_BK = logits_BK - logits_BK.mean(1, keepdim=True)
    variance_B1 = centred_BK.square().sum(1, keepdim=True) / (logits_BK.shape[1] - 1)
    # clamped before the root, whose slope at zero is infinite
    return centred_BK / variance_B1.clamp(min=floor**2).sqrt()


class LogitStandardisation(StepTransform):
    """Logit standardisation: any method on logits compares z-scores, so that only how the classes relate counts.

    Z(z) = (z - mean z) / std z, of both networks

    Source: Sun, Ren, Li, Wang, Cao, "Logit Standardization in Knowledge Distillation", CVPR 2024, arXiv:2403.01427.
    """

    name = "lskd"
    category = "response"
    groups = ("logits", "modern")
    companions = ("st",)

    class Options(StepTransform.Options):
        """Options of logit standardisation."""

        floor: float = Field(0.1, gt=0)
        """Least standard deviation that logits are divided by; those of a classifier that starts at zero would explode."""

    options: Options

    def build(self, pair: Pair) -> None:
        """Nothing to build.

        Raises:
            SettingsError: there are fewer than three classes: z-scores of two are always the same two numbers.
        """
        if pair.num_classes < 3:
            raise SettingsError(
                f"lskd standardises the logits of each image over its classes, which needs at least 3; of {pair.num_classes}, "
                "the result is constant and nothing can be learned from it. Leave lskd out."
            )

    def transform(self, step: Step) -> Step:
        """The step with standardised logits of the student and of every teacher, in every view."""
        return step.with_logits(self._standardised, self._standardised)

    def _standardised(self, logits_BK: Tensor) -> Tensor:
        return standardised(logits_BK, self.options.floor)


@hookimpl
def kdengine_register(registry: Registrar) -> None:
    """Offer the method, and the published weights to use it with."""
    registry.distiller(LogitStandardisation)
    registry.recipes(Path(__file__).parent / "recipes")
