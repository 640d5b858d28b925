"""Accuracies of a network over its epochs: the last, and that of the best epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["is_best", "score"]


def judged_by(row: Mapping[str, Any]) -> float:
    """What the best epoch is chosen by: accuracy on held-out images where there are some, else on the test images."""
    accuracy: float = row.get("val_top1", row["test_top1"])
    return accuracy


def is_best(row: Mapping[str, Any], before: Sequence[Mapping[str, Any]]) -> bool:
    """Whether an epoch is better than all before it; rows without an accuracy do not count."""
    return all(judged_by(row) > judged_by(other) for other in before if "test_top1" in other)


def score(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Accuracy on the test images in percent, after the last epoch and after the best one.

    Args:
        rows: of one network, as in ``metrics.jsonl``; those of phases without a task hold no accuracy.
    """
    measured = [row for row in rows if "test_top1" in row]
    if not measured:
        return {"top1": None, "best_top1": None}
    best = max(measured, key=judged_by)
    held_out = {"val_top1": measured[-1]["val_top1"], "best_val_top1": best["val_top1"]} if "val_top1" in best else {}
    return {
        "top1": measured[-1]["test_top1"],
        "best_top1": best["test_top1"],
        "best_epoch": best["epoch"],
        "top5": measured[-1]["test_top5"],
        **held_out,
    }
