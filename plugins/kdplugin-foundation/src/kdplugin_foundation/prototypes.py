"""A queue of the teacher's latest embeddings, as prototypes that images are compared with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdengine import Processes, l2_normalize

__all__ = ["Prototypes"]

# B: images of a batch, D: channels of the teacher's embedding, Q: length of the queue.

ALONE = Processes()
NOWHERE = -1e9
"""Score of a place that is empty: finite, so that a queue of nothing but these still gives finite numbers."""


class Prototypes(nn.Module):
    """Compares how student and teacher spread each image over the teacher's embeddings of earlier batches.

    Nothing here asks the device for a number, so no step waits for it; the state is two buffers.

    Source: Fang et al., "SEED: Self-supervised Distillation For Visual Representation", ICLR 2021, arXiv:2101.04731.

    Args:
        length: number Q of embeddings that are kept.
        width: length D of one.
        temperature: divides the cosines of both sides.
    """

    entries_QD: Tensor
    seen: Tensor

    def __init__(self, length: int, width: int, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.register_buffer("entries_QD", torch.zeros(length, width))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))  # embeddings so far; the next place is seen mod Q

    def forward(self, predicted_BD: Tensor, teacher_BD: Tensor, processes: Processes = ALONE) -> Tensor:
        """The loss [] of a batch against the queue, which then takes up the batch, that of all processes.

        Args:
            predicted_BD: what the student predicts of the teacher's embeddings, [B, D].
            teacher_BD: the teacher's embeddings, [B, D].
            processes: those that share the batch.
        """
        unit_BD = l2_normalize(teacher_BD)
        loss = self.compare(l2_normalize(predicted_BD), unit_BD)
        self.take_up(processes.gathered(unit_BD))
        return loss

    def compare(self, predicted_BD: Tensor, teacher_BD: Tensor) -> Tensor:
        """Cross-entropy of the student's distribution over the queue against the teacher's; [], 0 while the queue is empty.

        Args:
            predicted_BD: unit vectors, [B, D].
            teacher_BD: unit vectors, [B, D].
        """
        entries_QD = self.entries_QD.clone()  # the backward needs them as they are now
        empty_Q = torch.arange(len(entries_QD), device=entries_QD.device) >= self.seen
        log_q_BQ, log_p_BQ = (
            (unit_BD @ entries_QD.T / self.temperature).masked_fill(empty_Q, NOWHERE).log_softmax(1)
            for unit_BD in (predicted_BD, teacher_BD)
        )
        return -(log_p_BQ.exp() * log_q_BQ).sum(1).mean() * (self.seen > 0)

    @torch.no_grad()
    def take_up(self, teacher_BD: Tensor) -> None:
        """Put unit vectors [B, D] in the places of the oldest; of more than Q, the last Q."""
        length, count = len(self.entries_QD), len(teacher_BD)
        places_B = (self.seen + torch.arange(count, device=teacher_BD.device)) % length
        self.entries_QD.index_copy_(0, places_B[-length:], teacher_BD[-length:])
        self.seen += count
