"""A random state for each lane."""

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


class Drawn(NamedTuple):
    """How far generators have drawn: torch's of the CPU and of the accelerator, and Python's."""

    torch: list[Tensor]
    python: Any


class Randomness:
    """A random state of its own, swapped in while a lane works, so that lanes cannot disturb each other.

    The global state can only be lent to one at a time: lanes of engines in several threads wait for each other's steps.

    Args:
        seed: what it begins from.
        device: where the lane runs.

    Attributes:
        state: how far it has drawn from torch and Python.
        numpy: NumPy's generator, which is lent as it is: to copy its state at every step would take longer than all else.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self.device = device
        self.reseed(seed)

    def reseed(self, seed: int) -> None:
        """Begin anew, as if made with this seed."""
        with self._kept():
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every accelerator too
            if self.device.type == "cuda":
                torch.cuda.default_generators[self.device.index or 0].manual_seed(seed)
            random.seed(seed)
            self.state = self._now()
        self.numpy = np.random.MT19937(seed)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Draw from this state inside, and leave the global one as it was."""
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
        """Return to a saved state; a generator that did not exist then goes on from its own."""
        saved, own = [tensor.cpu() for tensor in state["torch"]], self.state.torch
        version, words, gauss = state["python"]
        key, place = state["numpy"]
        drawn = [*saved, *own[len(saved) :]][: len(own)]
        self.state = Drawn(drawn, (version, tuple(words), gauss))
        numpy: Any = {"key": np.array(key, dtype=np.uint32), "pos": place}
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
    """Keep the number that NumPy puts aside with every normal number that it draws, and that changing generators loses."""
    before: Any = np.random.get_state()
    try:
        yield
    finally:
        now: Any = np.random.get_state()
        if np.array_equal(now[1], before[1]) and now[2] == before[2]:  # nobody has drawn from it meanwhile
            np.random.set_state(before)
