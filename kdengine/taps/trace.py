"""The trace of a forward: the tensors at the taps, and the logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, KeysView, Mapping

from torch import Tensor

from kdengine.errors import TapError, did_you_mean
from kdengine.taps.tensors import times_written

__all__ = ["Trace"]


class Trace:
    """What one forward captured: tap name -> tensor (always float32, maps as [B, C, H, W]), and the logits.

    Args:
        tensors: tap name -> tensor.
        logits: [B, K], or [B, K, H, W] of a network that labels pixels; None if the forward stopped before them.
        complete: computes the logits on demand if the forward stopped before them.
        aliases: further names of the same tensors, such as ``stage-1`` for ``stage4``.
        inputs: the images that entered the forward, [B, C, H, W].
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        logits: Tensor | None = None,
        complete: Callable[[], Tensor] | None = None,
        aliases: Mapping[str, str] | None = None,
        inputs: Tensor | None = None,
    ) -> None:
        self._tensors = dict(tensors)
        self._logits = logits
        self._complete = complete
        self._aliases = dict(aliases or {})
        self._inputs = inputs

    @property
    def has_logits(self) -> bool:
        """Whether the forward reached the logits."""
        return self._logits is not None

    @property
    def input(self) -> Tensor:
        """The images that entered the forward, [B, C, H, W]; they require gradients if a method needs ``input_gradients``.

        In a step these are, for both networks, the images of the batch before each network's own preprocessing.

        Raises:
            TapError: the trace was made without images.
        """
        if self._inputs is None:
            raise TapError("This trace has no input: it was made without images. Give Trace(..., inputs=IMAGES).")
        return self._inputs

    @property
    def logits(self) -> Tensor:
        """The network's output [B, K] or [B, K, H, W], float32.

        Raises:
            TapError: the forward stopped before the logits.
        """
        if self._logits is None and self._complete is not None:
            self._logits = self._complete()
        if self._logits is None:
            raise TapError(
                "This forward stopped before the logits, because no tap asks for them. Add 'logits' to the taps, or record "
                "without stop=True."
            )
        return self._logits

    def __getitem__(self, name: str) -> Tensor:
        if name == "logits":
            return self.logits
        key = self._aliases.get(name, name)
        if key not in self._tensors:
            recorded = ", ".join(self._tensors) or "nothing"
            near = did_you_mean(name, self._tensors)
            raise TapError(f"'{name}' was not recorded. {near} Recorded: {recorded}. Add it to taps.".replace("  ", " "))
        return self._tensors[key]

    def __contains__(self, name: object) -> bool:
        return name in self._tensors or name in self._aliases

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def keys(self) -> KeysView[str]:
        """The names of the recorded tensors."""
        return self._tensors.keys()

    def versions(self) -> dict[str, int]:
        """How often each tensor has been written to in place."""
        tensors = {**self._tensors, **({} if self._logits is None else {"logits": self._logits})}
        return {name: times_written(tensor) for name, tensor in tensors.items()}

    def joined(self, other: Trace) -> Trace:
        """The same trace with the tensors of another, of the same images."""
        aliases = {**self._aliases, **other._aliases}
        return Trace({**self._tensors, **other._tensors}, self._logits, self._complete, aliases, self._inputs)

    def completed_by(self, complete: Callable[[], Tensor]) -> Trace:
        """The same trace, with logits that ``complete`` computes on first access."""
        return Trace(self._tensors, self._logits, complete, self._aliases, self._inputs)

    def with_logits(self, function: Callable[[Tensor], Tensor]) -> Trace:
        """The same trace with a function of its logits in their place, computed on first access."""
        return Trace(self._tensors, None, lambda: function(self.logits), self._aliases, self._inputs)

    def detached(self) -> Trace:
        """The same tensors, detached from the graph."""
        tensors = {name: tensor.detach() for name, tensor in self._tensors.items()}
        logits = None if self._logits is None else self._logits.detach()
        return Trace(tensors, logits, self._complete, self._aliases, self._inputs)

    def renamed(self, names: Mapping[str, str]) -> Trace:
        """The same tensors under other names, ``{new: old}``, with the logits."""
        tensors = {new: self[old] for new, old in names.items() if old in self}
        return Trace(tensors, self._logits, lambda: self.logits, inputs=self._inputs)
