"""Draws negatives: images of other classes than that of the image they are compared with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Negatives"]

WIDEST = 2**31 - 1
"""Draws below this are spread over N images by their remainders, evenly to within N / 2^31."""


class Negatives(nn.Module):
    """Draws positions in the training set, with replacement, among the images that do not have the class of a given one.

    Without labels every image is a class of its own. If all images have one class, there are no others, and it is not left out.

    Args:
        count: number N of training images.
        labels: the classes of all training images, [N]; None if they are not known.
    """

    circle: Tensor
    ends: Tensor
    others: Tensor

    def __init__(self, count: int, labels: Tensor | None = None) -> None:
        super().__init__()
        labels = torch.arange(count) if labels is None else labels.detach().cpu().unique(return_inverse=True)[1]
        sizes = torch.bincount(labels)
        order = labels.argsort(stable=True)
        others = (count - sizes).where(sizes < count, count)
        # they follow from the data, so they need not be saved
        self.register_buffer("circle", torch.cat([order, order]), persistent=False)
        self.register_buffer("ends", sizes.cumsum(0)[labels], persistent=False)
        self.register_buffer("others", others[labels].int(), persistent=False)

    def forward(self, index_B: Tensor, count: int) -> Tensor:
        """The positions ``index_B`` in column 0, then those of ``count`` negatives each: [B, 1 + count].

        They are drawn from torch's generator.
        """
        draws = torch.randint(WIDEST, (len(index_B), 1 + count), dtype=torch.int32, device=index_B.device)
        # in the order of classes, the others follow the image's own and wrap around
        steps = draws.remainder_(self.others[index_B, None]).long().add_(self.ends[index_B, None])
        places = self.circle.index_select(0, steps.flatten()).view_as(steps)
        places[:, 0] = index_B
        return places
