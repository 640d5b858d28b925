"""Distances between label-wise embeddings, and the loss that keeps those of the teacher."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["LabelWise", "class_loss", "instance_loss"]

# B: images of a batch, D: length of an embedding, K: labels; P: pairs, G: groups within which distances are compared.

SHORTEST = 1e-12
"""Square of the length below which a difference counts as zero."""


@dataclass(frozen=True)
class LabelWise:
    """The embeddings of all images for all labels, e_ik = f_i * w_k, without computing these [B, K, D].

    Attributes:
        features_BD: embeddings f of the images, [B, D].
        rows_KD: the classifier's weights w for each label, [K, D].
    """

    features_BD: Tensor
    rows_KD: Tensor

    def between_images(self) -> Tensor:
        """Distances of every pair of images for each label: |(f_i - f_j) * w_k|, [P, K], images i < j."""
        first, second = _pairs(self.features_BD)
        return _root((first - second).square() @ self.rows_KD.square().T)

    def between_labels(self) -> Tensor:
        """Distances of every pair of labels for each image: |f_i * (w_k - w_l)|, [P, B], labels k < l."""
        first, second = _pairs(self.rows_KD)
        return _root((first - second).square() @ self.features_BD.square().T)


def class_loss(student: LabelWise, teacher: LabelWise, positive_BK: Tensor) -> Tensor:
    """For each label, the structure of the images that have it; mean over the labels, []."""
    return _structure(student.between_images(), teacher.between_images(), positive_BK)


def instance_loss(student: LabelWise, teacher: LabelWise, positive_BK: Tensor) -> Tensor:
    """For each image, the structure of the labels that it has; mean over the images, []."""
    return _structure(student.between_labels(), teacher.between_labels(), positive_BK.T)


def _structure(student_PG: Tensor, teacher_PG: Tensor, members_NG: Tensor) -> Tensor:
    """Huber loss between the scaled distances within groups; [].

    mean over groups of  1/n sum over i, j of h(d_s(i, j) - d_t(i, j)),  n members i, j of the group

    Args:
        student_PG: distances of all pairs, in the order of the pairs i < j of N.
        teacher_PG: the same of the teacher.
        members_NG: which of N belongs to each group, bool. A group of fewer than two costs nothing.
    """
    first, second = _pairs(members_NG)
    counts_PG = (first & second).to(student_PG.dtype)
    difference_PG = F.smooth_l1_loss(_scaled(student_PG, counts_PG), _scaled(teacher_PG, counts_PG), reduction="none")
    members_G = members_NG.sum(0).clamp(min=1)
    return (2 * (difference_PG * counts_PG).sum(0) / members_G).mean()  # each pair stands for (i, j) and (j, i)


def _scaled(distances_PG: Tensor, counts_PG: Tensor) -> Tensor:
    """Distances divided by their mean over the pairs within each group."""
    pairs_G = counts_PG.sum(0)
    means_G = (distances_PG * counts_PG).sum(0) / pairs_G.clamp(min=1)
    return distances_PG / torch.where(pairs_G > 0, means_G, 1.0)


def _pairs(rows: Tensor) -> tuple[Tensor, Tensor]:
    """First and second of every pair of rows i < j, [P, ...] each."""
    first, second = torch.triu_indices(len(rows), len(rows), 1, device=rows.device)
    return rows[first], rows[second]


def _root(squares: Tensor) -> Tensor:
    """Square root whose gradient is zero instead of endless where two embeddings coincide."""
    return squares.clamp(min=SHORTEST).sqrt()
