"""The frozen teacher: one forward per batch, shared by all lanes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from kdengine.config.settings import TrainSettings
from kdengine.errors import TrainingError
from kdengine.networks.fingerprint import fingerprint
from kdengine.taps import Recorder, Trace
from kdengine.taps.anatomy import TapPoint
from kdengine.training.compiling import Forwards
from kdengine.training.folding import Folding
from kdengine.training.runtime import HALVES, Runtime
from kdengine.training.shelf import Place, Shelf

__all__ = ["FrozenTeacher"]

FROZEN = "The teacher is frozen: a method must not train it, take it out of eval(), or modify its tensors."


class FrozenTeacher:
    """A frozen teacher: one forward per batch, without gradients, that records the taps of all lanes.

    Args:
        model: the teacher; it is put into ``eval()`` and stays there.
        runtime: device and precision.
        train: settings of the run: whether to compile its forward, the size of a whole batch, and whether to fold its
            normalisation into its convolutions.

    Attributes:
        shelf: what it showed before, on disk; None if nothing is kept.
    """

    def __init__(self, model: nn.Module, runtime: Runtime, train: TrainSettings | None = None) -> None:
        self.model = runtime.place(model.eval())
        self._forwards = Forwards(self.model, None, train.compile, train.batch_size) if train else Forwards(self.model, None)
        self.runtime = runtime
        self._logits_wanted = False
        self._modules = list(self.model.modules())
        weights = (value for value in self.model.state_dict().values() if isinstance(value, Tensor))
        self._weights = [value for value in weights if not value.is_inference()]  # whose writes PyTorch does not count
        self._folds = train is None or (train.fold_teacher and not train.compile)
        self._folding: Folding | None = None
        self._counts: list[int] | None = None
        self._fingerprint = ""
        self.shelf: Shelf | None = None

    def trace(
        self, images: Tensor, points: Mapping[str, TapPoint], input_gradients: bool = False, place: Place | None = None
    ) -> Trace:
        """Record the points, stopping at the deepest; logits that no tap names are computed on first access.

        With a shelf, what is kept there is read instead.

        Args:
            images: [B, C, H, W].
            points: name -> point to record.
            input_gradients: make the trace differentiable with respect to the images; never read from a shelf.
            place: which batch of the training it is, if it is one.

        Raises:
            TrainingError: the teacher, or a part of it, is in training mode.
        """
        self.check_mode()
        if self._counts is None:
            self._counts, self._fingerprint = self._write_counts(), fingerprint(self.model)
        if input_gradients:
            return self._differentiable(images, points)
        if self.shelf is not None and place is not None:
            return self.shelf.show(images, points, place, partial(self._recorded, images))
        return self._recorded(images, points)

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
        return True in [module.training for module in self._modules]  # asked in every step: twice as fast as any()

    def _write_counts(self) -> list[int]:
        """How often each of the weights and buffers has been written to."""
        return [tensor._version for tensor in self._weights]

    def _recorded(self, images: Tensor, points: Mapping[str, TapPoint]) -> Trace:
        """Run the teacher, up to the deepest point if no method reads its logits."""
        whole = self._logits_wanted or any(not point.path for point in points.values())
        recorded = self._forward(images, points, whole)
        return recorded if whole else recorded.completed_by(lambda: self._unannounced_logits(images))

    def _unannounced_logits(self, images: Tensor) -> Tensor:
        """Logits for a method that reads them without a tap; from now on every forward runs to the end."""
        self._logits_wanted = True
        return self._forward(images, {}, whole=True).logits

    def _forward(self, images: Tensor, points: Mapping[str, TapPoint], whole: bool) -> Trace:
        if self._folds and self._folding is None:  # not before it runs at all, which a full store makes needless
            self._folding = Folding.of(self.model, images, HALVES.get(self.runtime.precision))
            self._folds = self._folding is not None
        if self._folding is None:
            return self._seen(self._forwards, images, points, whole)
        shown = self._folding.shown(points)
        hidden = {name: point for name, point in points.items() if name not in shown}
        if not hidden:
            return self._seen(self._folding.forwards, images, points, whole)
        # a point comes from the same network whatever else is read, so lanes do not change one another's numbers
        trace = self._seen(self._folding.forwards, images, shown, whole) if shown or whole else Trace({}, inputs=images)
        return trace.joined(self._seen(self._forwards, images, hidden, whole=False))

    def _seen(self, forwards: Forwards, images: Tensor, points: Mapping[str, TapPoint], whole: bool) -> Trace:
        # no_grad, not inference_mode: connectors may multiply these tensors by parameters
        with torch.no_grad(), self.runtime.autocast():
            return forwards.record(images, points, stop=not whole)

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
