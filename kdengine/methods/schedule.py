"""Weights that change over a run."""

from __future__ import annotations

from kdengine.methods.step import Step

__all__ = ["warmup"]


def warmup(step: Step, epochs: float, share: float = 1 / 12) -> float:
    """The share of its weight that a term has in a step: it rises linearly over the first epochs of a phase, from 0 to 1.

    Args:
        step: the step.
        epochs: epochs over which it rises, counted as publications do: the first epoch has 1 / epochs; 0 starts with all of it.
        share: most of the phase that the rise may take, so that short runs get past it; 1/12 are 20 epochs of 240.
    """
    by_epoch = (step.epoch + 1) / epochs if epochs else 1.0
    by_share = step.progress / share if share else 1.0
    return min(1.0, max(by_epoch, by_share))
