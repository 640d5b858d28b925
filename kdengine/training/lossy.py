"""How tensors are kept in a teacher store: exactly, or in less space at the price of other numbers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Exact", "Half", "TopK"]

LARGEST = torch.finfo(torch.float16).max


@dataclass(frozen=True)
class Exact:
    """Every value as it is."""

    def encode(self, tensor: Tensor) -> Tensor:
        """What is written of a tensor [B, ...]."""
        return tensor

    def decode(self, written: Tensor) -> Tensor:
        """What is shown of that."""
        return written


@dataclass(frozen=True)
class Half(Exact):
    """Every value rounded to float16; larger ones become the largest of that type."""

    def encode(self, tensor: Tensor) -> Tensor:
        """Values [B, ...] of float16, as float32."""
        return tensor.clamp(-LARGEST, LARGEST).half().float()


@dataclass(frozen=True)
class TopK(Exact):
    """The k largest logits of each image; what is left of the softmax is spread evenly over the other classes.

    With p = softmax(z) over K classes and T the k largest, what is shown is the distribution

        q_c = p_c for c in T, and (1 - sum of p over T) / (K - k) for all others,

    as logits: those in T as they were, and log((sum of exp(z_j) over j not in T) / (K - k)) for the others.

    Source: Wu et al., "TinyViT: Fast Pretraining Distillation for Small Vision Transformers", ECCV 2022, section 3.1.

    Attributes:
        count: k.
        classes: K, more than that.
    """

    count: int
    classes: int

    def encode(self, tensor: Tensor) -> Tensor:
        """Logits [B, K] as [B, 2 k + 1]: the k largest, their classes, and the logit of all others."""
        values, places = tensor.topk(self.count, dim=1)
        others = tensor.scatter(1, places, -torch.inf)
        rest = others.logsumexp(1, keepdim=True) - torch.tensor(float(self.classes - self.count)).log()
        return torch.cat([values, places.to(values.dtype), rest], 1)

    def decode(self, written: Tensor) -> Tensor:
        """Such numbers [B, 2 k + 1] as logits [B, K]."""
        values, places, rest = written.split([self.count, self.count, 1], dim=1)
        logits: Tensor = rest.expand(-1, self.classes).scatter(1, places.long(), values)
        return logits
