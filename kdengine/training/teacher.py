"""The teacher's part of a step: one forward a batch, of which every lane takes what it needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from kdengine.errors import TrainingError
from kdengine.networks.fingerprint import fingerprint
from kdengine.taps import Recorder, Trace
from kdengine.taps.anatomy import TapPoint
from kdengine.taps.tensors import times_written
from kdengine.training.runtime import Runtime

__all__ = ["FrozenTeacher"]

FROZEN = "A teacher is frozen: no method may train it, take it out of eval(), or write into what belongs to it."


class FrozenTeacher:
    """A frozen teacher: one forward a batch, without gradients, that records what the lanes ask for.

    Args:
        model: the teacher; it is in ``eval()`` and stays so.
        runtime: where it runs.
    """

    def __init__(self, model: nn.Module, runtime: Runtime) -> None:
        self.model = runtime.place(model.eval())
        self.runtime = runtime
        self._logits_wanted = False
        self._modules = list(self.model.modules())
        self._weights = [value for value in self.model.state_dict().values() if isinstance(value, Tensor)]
        self._written: list[int] | None = None
        self._fingerprint = ""

    def trace(self, images: Tensor, points: Mapping[str, TapPoint], input_gradients: bool = False) -> Trace:
        """Record the points, stopping at the deepest; logits that nobody named are made when they are asked for.

        Args:
            images: [B, C, H, W].
            points: what to record, by name.
            input_gradients: let what is recorded be differentiated with respect to the images.

        Raises:
            TrainingError: something put the teacher, or a part of it, into training mode.
        """
        self.check_mode()
        if self._written is None:
            self._written, self._fingerprint = self._now(), fingerprint(self.model)
        if input_gradients:
            return self._differentiable(images, points)
        whole = self._logits_wanted or "logits" in points
        recorded = self._forward(images, points, whole)
        return recorded if whole else recorded.completed_by(lambda: self._unannounced_logits(images))

    def check_mode(self) -> None:
        """Refuse a teacher that is not in ``eval()`` from top to bottom.

        Raises:
            TrainingError: a part of it is in training mode.
        """
        if self._in_training:
            raise TrainingError(f"The teacher was put into training mode. {FROZEN}")

    def check_untouched(self, lane: str) -> None:
        """Refuse a step that wrote into the weights or buffers, or left ``eval()``; takes microseconds.

        Args:
            lane: whose step it was.

        Raises:
            TrainingError: it did, as far as PyTorch counts what is written.
        """
        if self._in_training:
            raise TrainingError(f"{lane}: a step put the teacher into training mode. {FROZEN}")
        if self._written not in (None, self._now()):
            raise TrainingError(f"{lane}: a step changed the teacher's weights or buffers. {FROZEN}")

    def check_unchanged(self) -> None:
        """Compare every bit of weights and buffers with what they were at the first pass.

        Raises:
            TrainingError: some are other ones.
        """
        if self._written is not None and fingerprint(self.model) != self._fingerprint:
            raise TrainingError(f"The teacher's weights or buffers are no longer those that the run began with. {FROZEN}")

    @property
    def _in_training(self) -> bool:
        """Whether any part of it is in training mode."""
        return any(module.training for module in self._modules)

    def _now(self) -> list[int]:
        """How often each of the weights and buffers has been written to."""
        return [times_written(tensor) for tensor in self._weights]

    def _unannounced_logits(self, images: Tensor) -> Tensor:
        """The logits for a method that reads them without naming them; from now on no forward is cut short."""
        self._logits_wanted = True
        return self._forward(images, {}, whole=True).logits

    def _forward(self, images: Tensor, points: Mapping[str, TapPoint], whole: bool) -> Trace:
        # no_grad, not inference_mode: connectors may multiply these tensors by parameters
        with torch.no_grad(), self.runtime.autocast(), Recorder(self.model, points, stop=not whole) as recorder:
            return recorder(images)

    def _differentiable(self, images: Tensor, points: Mapping[str, TapPoint]) -> Trace:
        """A forward in float32, because derivatives of bf16 forwards are too coarse to be compared."""
        with _frozen(self.model), torch.enable_grad(), Recorder(self.model, points) as recorder:
            return recorder(images.detach().requires_grad_())


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """No parameter takes part in the graph inside; the parameters' flags are restored on return."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
