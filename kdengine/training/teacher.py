"""The frozen teacher: one forward per batch, shared by all lanes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from kdengine.config.settings import TrainSettings
from kdengine.errors import TrainingError
from kdengine.networks.fingerprint import fingerprint
from kdengine.taps import Recorder, Trace
from kdengine.taps.anatomy import TapPoint
from kdengine.taps.tensors import times_written
from kdengine.training.compiling import Forwards
from kdengine.training.runtime import Runtime

__all__ = ["FrozenTeacher"]

FROZEN = "The teacher is frozen: a method must not train it, take it out of eval(), or modify its tensors."


class FrozenTeacher:
    """A frozen teacher: one forward per batch, without gradients, that records the taps of all lanes.

    Args:
        model: the teacher; it is put into ``eval()`` and stays there.
        runtime: device and precision.
        train: settings of the run, which tell whether to compile its forward, and the size of a whole batch.
    """

    def __init__(self, model: nn.Module, runtime: Runtime, train: TrainSettings | None = None) -> None:
        self.model = runtime.place(model.eval())
        self._forwards = Forwards(self.model, None, train.compile, train.batch_size) if train else Forwards(self.model, None)
        self.runtime = runtime
        self._logits_wanted = False
        self._modules = list(self.model.modules())
        self._weights = [value for value in self.model.state_dict().values() if isinstance(value, Tensor)]
        self._counts: list[int] | None = None
        self._fingerprint = ""

    def trace(self, images: Tensor, points: Mapping[str, TapPoint], input_gradients: bool = False) -> Trace:
        """Record the points, stopping at the deepest; logits that no tap names are computed on first access.

        Args:
            images: [B, C, H, W].
            points: name -> point to record.
            input_gradients: make the trace differentiable with respect to the images.

        Raises:
            TrainingError: the teacher, or a part of it, is in training mode.
        """
        self.check_mode()
        if self._counts is None:
            self._counts, self._fingerprint = self._write_counts(), fingerprint(self.model)
        if input_gradients:
            return self._differentiable(images, points)
        whole = self._logits_wanted or "logits" in points
        recorded = self._forward(images, points, whole)
        return recorded if whole else recorded.completed_by(lambda: self._unannounced_logits(images))

    def check_mode(self) -> None:
        """Refuse a teacher unless all of its modules are in ``eval()``.

        Raises:
            TrainingError: a module is in training mode.
        """
        if self._in_training:
            raise TrainingError(f"The teacher was put into training mode. {FROZEN}")

    def check_untouched(self, lane: str) -> None:
        """Refuse a step that modified the weights or buffers, or left ``eval()``; takes microseconds.

        Args:
            lane: the lane that took the step.

        Raises:
            TrainingError: it did; only writes that PyTorch counts are detected.
        """
        if self._in_training:
            raise TrainingError(f"{lane}: a step put the teacher into training mode. {FROZEN}")
        if self._counts not in (None, self._write_counts()):
            raise TrainingError(f"{lane}: a step changed the teacher's weights or buffers. {FROZEN}")

    def check_unchanged(self) -> None:
        """Verify that weights and buffers are bit-identical to what they were at the first forward.

        Raises:
            TrainingError: some have changed.
        """
        if self._counts is not None and fingerprint(self.model) != self._fingerprint:
            raise TrainingError(f"The teacher's weights or buffers have changed since the start of the run. {FROZEN}")

    @property
    def _in_training(self) -> bool:
        """Whether any module is in training mode."""
        return any(module.training for module in self._modules)

    def _write_counts(self) -> list[int]:
        """How often each of the weights and buffers has been written to."""
        return [times_written(tensor) for tensor in self._weights]

    def _unannounced_logits(self, images: Tensor) -> Tensor:
        """Logits for a method that reads them without a tap; from now on every forward runs to the end."""
        self._logits_wanted = True
        return self._forward(images, {}, whole=True).logits

    def _forward(self, images: Tensor, points: Mapping[str, TapPoint], whole: bool) -> Trace:
        # no_grad, not inference_mode: connectors may multiply these tensors by parameters
        with torch.no_grad(), self.runtime.autocast():
            return self._forwards.record(images, points, stop=not whole)

    def _differentiable(self, images: Tensor, points: Mapping[str, TapPoint]) -> Trace:
        """Run in float32, because input gradients of bf16 forwards are too coarse to compare."""
        with _frozen(self.model), torch.enable_grad(), Recorder(self.model, points) as recorder:
            return recorder(images.detach().requires_grad_())


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Disable gradients of all parameters inside the context; their flags are restored on exit."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
