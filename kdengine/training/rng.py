"""Random states of lanes."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from kdengine.seeds import undisturbed

__all__ = ["Drawn", "Randomness", "gaussian_kept"]


RANK_SEED = 7_919
"""Times the rank, added to the seed, so that dropout differs between processes."""
EPOCH_SEED = 1_000_003
"""Times the number of past epochs, added to the seed."""


class Drawn(NamedTuple):
    """Generator states: torch's on the CPU and on the accelerator, and Python's."""

    torch: list[Tensor]
    python: Any


class Randomness:
    """A separate random state, swapped in while a lane works, so that lanes cannot affect each other's draws.

    Only one lane can use the global state at a time: lanes in several threads wait for each other's steps.

    Args:
        seed: the initial seed.
        device: device of the lane.
        rank: number of the process.

    Attributes:
        state: generator states of torch and Python.
        numpy: NumPy's generator, swapped in as an object because copying its state at every step would dominate the cost.
    """

    def __init__(self, seed: int, device: torch.device, rank: int = 0) -> None:
        self.device = device
        self._seed = seed + RANK_SEED * rank
        self.reseed(self._seed)

    def begin_epoch(self, number: int) -> None:
        """Reset to a state that depends on the seed and the number of past epochs alone, not on what they drew."""
        self.reseed(self._seed + EPOCH_SEED * number)

    def reseed(self, seed: int) -> None:
        """Reset to the state of a new instance with this seed."""
        with self._kept():
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every accelerator too
            if self.device.type == "cuda":
                torch.cuda.default_generators[self.device.index or 0].manual_seed(seed)
            random.seed(seed)
            self.state = self._now()
        self.numpy = np.random.MT19937(seed)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Draw from this state inside the context; the global state is restored on exit."""
        with self._kept():
            self._restore(self.state)
            try:
                with _numpy_draws_from(self.numpy):
                    yield
            finally:
                self.state = self._now()

    def state_dict(self) -> dict[str, Any]:
        """The state as tensors and plain data."""
        version, words, gauss = self.state.python
        drawn: Any = self.numpy.state["state"]
        numpy = [drawn["key"].tolist(), int(drawn["pos"])]
        return {"torch": self.state.torch, "python": [version, list(words), gauss], "numpy": numpy}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a saved state; a generator that is not in it keeps its current state."""
        saved, own = [tensor.cpu() for tensor in state["torch"]], self.state.torch
        version, words, gauss = state["python"]
        key, position = state["numpy"]
        drawn = [*saved, *own[len(saved) :]][: len(own)]
        self.state = Drawn(drawn, (version, tuple(words), gauss))
        numpy: Any = {"key": np.array(key, dtype=np.uint32), "pos": position}
        self.numpy.state = {"bit_generator": "MT19937", "state": numpy}

    def _now(self) -> Drawn:
        states = [torch.get_rng_state()]
        if self.device.type == "cuda":
            states.append(torch.cuda.get_rng_state(self.device))
        return Drawn(states, random.getstate())

    def _restore(self, drawn: Drawn) -> None:
        torch.set_rng_state(drawn.torch[0])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(drawn.torch[1], self.device)
        random.setstate(drawn.python)

    @contextmanager
    def _kept(self) -> Iterator[None]:
        with undisturbed():
            before = self._now()
            try:
                yield
            finally:
                self._restore(before)


@contextmanager
def _numpy_draws_from(generator: np.random.MT19937) -> Iterator[None]:
    before = np.random.get_bit_generator()  # type: ignore[attr-defined]
    np.random.set_bit_generator(generator)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        np.random.set_bit_generator(before)  # type: ignore[attr-defined]


@contextmanager
def gaussian_kept() -> Iterator[None]:
    """Preserve NumPy's cached second Gaussian sample, which is lost when generators are swapped."""
    before: Any = np.random.get_state()
    try:
        yield
    finally:
        now: Any = np.random.get_state()
        if np.array_equal(now[1], before[1]) and now[2] == before[2]:  # nothing was drawn from it in the meantime
            np.random.set_state(before)
