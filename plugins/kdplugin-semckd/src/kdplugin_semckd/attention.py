"""Which levels of the teacher a level of the student should learn from, for every image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdengine import flat_features, gram, l2_normalize

__all__ = ["Attention", "fold", "similarities"]

# B: images of a batch, L: slots, E: width of queries and keys, S and T: levels of student and teacher.


def similarities(features: Tensor) -> Tensor:
    """Products of the flattened features of all pairs of images: [B, ...] -> [B, B]."""
    return gram(flat_features(features))


def fold(similar_BB: Tensor, slots: int) -> Tensor:
    """The similarities of each image in a fixed number of columns: [B, B] -> [B, L].

    Image j goes to slot j modulo L; what shares a slot is added up, and slots without an image are zero. With as many images
    as slots this is the matrix itself.

    Args:
        similar_BB: similarities of all pairs of images.
        slots: number of columns L.
    """
    similar_BN = F.pad(similar_BB, (0, -similar_BB.shape[1] % slots))
    folded_BL: Tensor = similar_BN.unflatten(1, (-1, slots)).sum(1)
    return folded_BL


class _Embedding(nn.Module):
    """Two linear layers from the similarities of an image to a vector of length 1: [B, L] -> [B, L / 4]."""

    def __init__(self, slots: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(slots, slots // 4 * 2), nn.ReLU(), nn.Linear(slots // 4 * 2, slots // 4))

    def forward(self, similar_BL: Tensor) -> Tensor:
        vectors_BE: Tensor = self.layers(similar_BL)
        # similarities grow with the squares of the features, and the length would square them again, beyond float32
        largest_B1 = vectors_BE.detach().abs().amax(1, keepdim=True).clamp(min=torch.finfo(vectors_BE.dtype).tiny)
        return l2_normalize(vectors_BE / largest_B1)


class Attention(nn.Module):
    """How much each level of the student attends to each level of the teacher.

    A level is known by which images it finds alike. Two linear layers make a query of that for every level of the student
    and a key for every level of the teacher, both of length 1; the attention is the softmax of their products.

    Args:
        students: levels S of the student.
        teachers: levels T of the teacher.
        slots: inputs L of the linear layers; see :func:`fold`.
    """

    def __init__(self, students: int, teachers: int, slots: int) -> None:
        super().__init__()
        self.slots = slots
        self.queries = nn.ModuleList(_Embedding(slots) for _ in range(students))
        self.keys = nn.ModuleList(_Embedding(slots) for _ in range(teachers))

    def forward(self, students: Sequence[Tensor], teachers: Sequence[Tensor]) -> Tensor:
        """Features of all levels of both networks, each [B, ...] -> weights that sum to 1 over the teacher's, [B, S, T]."""
        queries_BSE, keys_BTE = self._embed(self.queries, students), self._embed(self.keys, teachers)
        return torch.softmax(queries_BSE @ keys_BTE.mT, dim=2)

    def _embed(self, embeddings: nn.ModuleList, levels: Sequence[Tensor]) -> Tensor:
        pairs = zip(embeddings, levels, strict=True)
        return torch.stack([embed(fold(similarities(features), self.slots)) for embed, features in pairs], 1)
