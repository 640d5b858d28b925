"""What an epoch of a lane has come to so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from kdengine.data.batches import Batch

__all__ = ["Meter"]


class Meter:
    """Sums over the batches of an epoch, kept on the device so that nothing waits for them.

    Args:
        device: of the terms.

    Attributes:
        steps: batches so far.
        busy: seconds that the lane worked on them.
    """

    def __init__(self, device: torch.device) -> None:
        self.steps = 0
        self.busy = 0.0
        self._seen = 0
        self._right = torch.zeros((), device=device)
        self._terms: dict[str, Tensor] = {}

    def note(self, batch: Batch, terms: Mapping[str, Tensor], logits: Tensor | None) -> None:
        """Add a step: its weighted terms, each [], and the logits [B, K] where there are some."""
        count = len(batch.y)
        self.steps += 1
        self._seen += count
        for name, value in terms.items():
            self._terms[name] = self._terms.get(name, 0.0) + value.detach() * count
        if logits is not None:
            self._right += (logits.detach().argmax(1) == batch.y).sum()

    def row(self, total: Callable[[Tensor | float], float], with_accuracy: bool) -> dict[str, Any]:
        """Means over the images of the epoch, for ``metrics.jsonl``.

        Args:
            total: sums a number over all processes.
            with_accuracy: whether the logits were made, so that there is an accuracy.
        """
        seen = total(self._seen)
        terms = {name: total(value) / seen for name, value in self._terms.items()}
        row: dict[str, Any] = {
            "loss": sum(terms.values()),
            "terms": terms,
            "seconds": round(self.busy, 3),
            "images_per_second": round(seen / max(self.busy, 1e-9), 1),
        }
        return {**row, "train_top1": 100.0 * total(self._right) / seen} if with_accuracy else row

    def state_dict(self) -> dict[str, Any]:
        """Everything, to go on in the middle of an epoch."""
        return {"steps": self.steps, "busy": self.busy, "seen": self._seen, "right": self._right, "terms": self._terms}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Return to a saved state."""
        device = self._right.device
        self.steps, self.busy, self._seen = state["steps"], state["busy"], state["seen"]
        self._right = state["right"].to(device, copy=True)  # it is added to in place
        self._terms = {name: value.to(device) for name, value in state["terms"].items()}
