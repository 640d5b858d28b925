"""What projects the features of both networks into one space."""

from __future__ import annotations

from torch import Tensor, nn

from kdengine import l2_normalize, pool_to_vectors

__all__ = ["Embeddings"]


class Embeddings(nn.Module):
    """A linear map for each network to a common space of unit vectors.

    Args:
        student: length of the student's features.
        teacher: length of the teacher's.
        length: length D of the embeddings.
    """

    def __init__(self, student: int, teacher: int, length: int) -> None:
        super().__init__()
        self.of_student = nn.Linear(student, length)
        self.of_teacher = nn.Linear(teacher, length)

    def forward(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Features of both networks (maps, tokens or vectors) -> unit vectors [B, D] of each."""
        ours, theirs = self.of_student(pool_to_vectors(student)), self.of_teacher(pool_to_vectors(teacher))
        return l2_normalize(ours), l2_normalize(theirs)
