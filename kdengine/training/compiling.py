"""Compiled forward passes: of a network and its taps together."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kdengine.config.settings import TrainSettings
from kdengine.errors import SettingsError
from kdengine.networks.inputs import Preprocess
from kdengine.taps import Recorder, Trace
from kdengine.taps.anatomy import TapPoint
from kdengine.taps.tapped_copy import TappedCopy

__all__ = ["BACKEND", "Forwards", "check_graphs"]

log = logging.getLogger(__name__)

BACKEND = "inductor"
MOST = 8
"""Sets of taps of one network that are compiled; a run needs one a phase, and one whenever lanes that read others end."""
RECOMPILATIONS = 64
"""How often torch may compile the forward that all networks share: it counts networks, phases and modes together."""
GRAPHED = ("reduce-overhead", "max-autotune")
"""Modes with CUDA graphs, which write the outputs of their next replay over those of this one."""


def check_graphs(train: TrainSettings, device: torch.device) -> None:
    """Refuse to add up gradients in memory that CUDA graphs write to anew in every step.

    Raises:
        SettingsError: the settings ask for both.
    """
    if device.type == "cuda" and train.compile in GRAPHED and train.accumulate > 1:
        raise SettingsError(
            f"train.compile = '{train.compile}' uses CUDA graphs, in whose memory gradients do not last from step to step, so "
            f"train.accumulate = {train.accumulate} is not possible with it. Take train.compile=true, or accumulate=1."
        )


_Compiled = Callable[[Tensor], tuple[Tensor | None, tuple[Tensor, ...]]]


class Forwards:
    """The forward passes of a network that record taps: as they are, or compiled.

    Compiled are batches of one size: that of the settings, or one that comes twice in a row. Others, such as a smaller last
    batch, run as they are, because compiling them would take longer than it saves. So does everything once the compiler has
    refused the network; the log says why.

    Not a module, so that copies do not appear among the weights of the network.

    Args:
        network: the network.
        preprocess: what comes before it.
        compile: whether to compile, or the mode in which torch does; see ``train.compile``.
        batch_size: images in a whole batch.
    """

    def __init__(
        self, network: nn.Module, preprocess: Preprocess | None, compile: bool | str = False, batch_size: int = 0
    ) -> None:
        self.plain = network if preprocess is None else preprocess.before(network)
        self._mode = "default" if compile is True else compile or None
        self._sizes = (batch_size, 0)
        self._compiled: dict[Any, tuple[TappedCopy, _Compiled]] = {}
        self._tried: set[Any] = set()

    def record(self, images: Tensor, points: Mapping[str, TapPoint], stop: bool = False) -> Trace:
        """Run the network and record taps.

        Args:
            images: [B, C, H, W].
            points: name -> point to record.
            stop: end the forward once the last tap has been seen; the logits are then recorded only if they are a tap.

        Raises:
            TapError: a tap names nothing, did not fire, or was overwritten unexpectedly.
        """
        if self._mode is not None and self._is_whole(images):
            trace = self._run_compiled(images, points, stop)
            if trace is not None:
                return trace
        with Recorder(self.plain, points, stop=stop) as recorder:
            return recorder(images)

    def _is_whole(self, images: Tensor) -> bool:
        whole, last = self._sizes
        self._sizes = whole, len(images)
        return len(images) in (whole, last)

    def _run_compiled(self, images: Tensor, points: Mapping[str, TapPoint], stop: bool) -> Trace | None:
        """The trace of a compiled forward; None if there is none."""
        key = tuple(points.items()), stop
        if key not in self._compiled and (len(self._compiled) == MOST or not self._add(key, points, stop)):
            return None
        copied, forward = self._compiled[key]
        copied.follow()
        attempt = key, images.shape, self.plain.training
        if attempt in self._tried:
            logits, tensors = forward(images)
        else:
            returned = self._first(lambda: forward(images), images.device)
            if returned is None:
                return None
            self._tried.add(attempt)
            logits, tensors = returned
        if self._mode in GRAPHED and images.is_cuda and not torch.is_grad_enabled():
            logits, tensors = None if logits is None else logits.clone(), tuple(tensor.clone() for tensor in tensors)
        return copied.trace(images, logits, tensors)

    def _add(self, key: Any, points: Mapping[str, TapPoint], stop: bool) -> bool:
        """Make the compiled forward of a set of taps; whether that worked."""
        _allow_many_networks()
        try:
            copied = TappedCopy(self.plain, points, stop)
            mode = None if BACKEND != "inductor" else self._mode
            self._compiled[key] = copied, torch.compile(copied, backend=BACKEND, mode=mode, dynamic=False)
        except Exception as error:  # networks may refuse to be copied for any reason
            self._give_up(error)
            return False
        return True

    def _first(self, forward: Callable[[], Any], device: torch.device) -> Any:
        """What a forward returns that has to be compiled first; None if it cannot be, and then nothing has happened."""
        buffers = [(buffer, buffer.clone()) for buffer in self.plain.buffers()]
        generator = torch.cuda.default_generators[device.index or 0] if device.type == "cuda" else torch.default_generator
        drawn = torch.get_rng_state(), generator.get_state(), random.getstate()
        try:
            return forward()
        except Exception as error:  # compilers fail in many ways; what is the network's own fault is raised without them too
            with torch.no_grad():
                for buffer, before in buffers:
                    if not torch.equal(buffer, before):  # a teacher notices every write
                        buffer.copy_(before)
            torch.set_rng_state(drawn[0])
            generator.set_state(drawn[1])
            random.setstate(drawn[2])
            self._give_up(error)
            return None

    def _give_up(self, error: Exception) -> None:
        """Run the network as it is from now on."""
        self._mode = None
        self._compiled.clear()
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        log.warning("%s is not compiled, and runs as it is: %s", type(self.plain).__name__, reason)


def _allow_many_networks() -> None:
    """Let torch compile as often as a comparison needs, and run backward more than once, as clipping a term does."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, RECOMPILATIONS)
    torch._functorch.config.donated_buffer = False
