"""Noise-contrastive estimation: tells the match of an image from many that do not match."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["contrast", "log_normaliser", "scores"]

# B: images, D: length of an embedding, N: images in a memory, K: negatives of an image.
# Column 0 of [B, 1 + K] is the match, the others are the negatives.

SPARSE = 32
"""Times that a memory must be larger than the negatives of an image before these are gathered one by one."""


def scores(anchors_BD: Tensor, memory_ND: Tensor, places_BK: Tensor) -> Tensor:
    """Products of anchors with the entries of a memory at given places: [B, 1 + K].

    One product with the whole memory, from which the scores are picked, costs a fraction of gathering B (1 + K) entries of D
    numbers each; only a memory many times larger than the negatives is read entry by entry.
    """
    if _is_sparse(memory_ND, places_BK):
        return torch.bmm(memory_ND[places_BK], anchors_BD[:, :, None])[:, :, 0]
    return (anchors_BD @ memory_ND.T).gather(1, places_BK)


def log_normaliser(scores_BK: Tensor, images: int) -> Tensor:
    """Log of the constant Z = N mean(exp(score)), over all scores of a batch; []."""
    return scores_BK.flatten().logsumexp(0) + math.log(images / scores_BK.numel())


def contrast(
    anchors_BD: Tensor, memory_ND: Tensor, places_BK: Tensor, log_z: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Loss of telling the match from the negatives, and its gradient with respect to the anchors: [], [B, D].

    sum over anchors of  -log [h+ / (h+ + K/N)] - sum_k log [(K/N) / (h_k + K/N)],  h = exp(a.m / temperature) / Z

    The gradient is taken at once: by the time of the backward, the memory has taken up the batch.

    Args:
        anchors_BD: unit vectors of one network.
        memory_ND: the other network's vectors of all images.
        places_BK: positions of the match and of the negatives in the memory, [B, 1 + K].
        log_z: log of Z, [].
        temperature: temperature of the scores.
    """
    noise = math.log((places_BK.shape[1] - 1) / len(memory_ND))
    # log of h / (K/N): positive where an image looks like a match
    evidence = scores(anchors_BD, memory_ND, places_BK).div_(temperature).sub_(log_z + noise)
    loss = F.softplus(-evidence[:, 0]).sum() + F.softplus(evidence[:, 1:]).sum()
    slopes = evidence.sigmoid_()
    slopes[:, 0] -= 1
    return loss, _weighted_sum(slopes, memory_ND, places_BK) / temperature


def _weighted_sum(weights_BK: Tensor, memory_ND: Tensor, places_BK: Tensor) -> Tensor:
    """Sum of entries of the memory with weights, for each anchor: [B, D]."""
    if _is_sparse(memory_ND, places_BK):
        return torch.bmm(weights_BK[:, None], memory_ND[places_BK])[:, 0]
    dense_BN = weights_BK.new_zeros(len(places_BK), len(memory_ND))
    return dense_BN.scatter_add_(1, places_BK, weights_BK) @ memory_ND


def _is_sparse(memory_ND: Tensor, places_BK: Tensor) -> bool:
    return len(memory_ND) > SPARSE * places_BK.shape[1]
