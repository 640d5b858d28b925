"""Measuring the accuracy of a network on batches."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from kdengine.data.batches import Batches
from kdengine.errors import TrainingError
from kdengine.taps import Recorder
from kdengine.training.runtime import Runtime

__all__ = ["evaluate"]


def evaluate(
    model: nn.Module, batches: Batches, runtime: Runtime, check: Callable[[], None] = lambda: None
) -> dict[str, float]:
    """Top-1 and top-5 accuracy in percent and mean cross-entropy, in fp32, so that any other program finds the same.

    Args:
        model: it is in the mode of before afterwards.
        batches: what to measure on.
        runtime: where it runs.
        check: called between batches; it may raise to end the measuring.

    Raises:
        TrainingError: there is nothing to evaluate on.
    """
    was_training = model.training
    model.eval()
    seen, right, right5, loss = 0, 0, 0, 0.0
    try:
        for batch in batches.epoch(0):
            check()
            with torch.no_grad(), Recorder(model, {}) as recorder:
                logits = recorder(runtime.layout(batch.x)).logits
            ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices == batch.y[:, None]
            seen += len(batch.y)
            right += int(ranked[:, 0].sum())
            right5 += int(ranked.sum())
            loss += float(F.cross_entropy(logits, batch.y, reduction="sum"))
    finally:
        model.train(was_training)
    if seen == 0:
        raise TrainingError("There are no test images, so no accuracy can be measured.")
    return {"top1": 100.0 * right / seen, "top5": 100.0 * right5 / seen, "loss": loss / seen}
