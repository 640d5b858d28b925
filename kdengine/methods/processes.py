"""The processes that share a batch, as a method sees them, so that what it keeps takes up the images of all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kdengine.errors import TrainingError

__all__ = ["ALONE", "Processes"]


@dataclass(frozen=True)
class Processes:
    """The processes that train together, each on its share of every batch; by default, this one alone.

    What a method keeps between steps, such as a memory of all images or a statistic, has to be the same in all of them.
    Nothing here has gradients. All processes have to ask for the same in the same order, or they wait for one another forever.

    Attributes:
        count: how many there are.
        shares: for each of them, the images of the batch that it answers for; empty if they use loaders of the user's own.
        exchange: gathers a tensor of one shape from all of them, [...] -> [count, ...]; None for one process.
    """

    count: int = 1
    shares: tuple[int, ...] = ()
    exchange: Callable[[Tensor], Tensor] | None = None

    @torch.no_grad()
    def stacked(self, value: Tensor) -> Tensor:
        """A tensor of the same shape in every process, such as a sum or a maximum, from all of them: [count, ...]."""
        value = value.detach()
        return value[None] if self.exchange is None else self.exchange(value)

    @torch.no_grad()
    def gathered(self, rows: Tensor) -> Tensor:
        """The rows of all processes, in the order of the batch that they share: those of one process with the whole batch.

        Args:
            rows: one for each image, [B, ...]; B may differ between processes.

        Raises:
            TrainingError: there are more or fewer rows than images.
        """
        rows = rows.detach()
        if self.exchange is None:
            return rows
        shares = self.shares or tuple(map(int, self.exchange(torch.tensor(len(rows), device=rows.device)).tolist()))
        if len(rows) not in shares:
            raise TrainingError(
                f"Processes.gathered takes one row for each image of the batch, of which the processes have "
                f"{', '.join(map(str, shares))}; got {len(rows)} rows. This is a bug in the plugin."
            )
        most = max(shares)
        padded = torch.cat([rows, rows.new_zeros(most - len(rows), *rows.shape[1:])])
        # image number j of process p is number j * count + p of the batch
        joined = self.exchange(padded).transpose(0, 1).flatten(0, 1)
        real = [j * self.count + p for j in range(most) for p in range(self.count) if j < shares[p]]
        if real == list(range(len(real))):
            return joined[: len(real)]
        return joined.index_select(0, torch.tensor(real, device=joined.device))


ALONE = Processes()
