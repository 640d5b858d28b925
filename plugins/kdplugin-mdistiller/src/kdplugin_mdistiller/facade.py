"""What the file's class holds as student and teacher: networks that answer from the taps of the step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn

from kdengine import KDError, TapPair

__all__ = ["Facade", "NotServed", "Shown"]

ShownT = TypeVar("ShownT", bound="Shown")
FEATURES = ("feats", "preact_feats", "pooled_feat")


class NotServed(KDError, AttributeError):
    """The file asks its networks for something that taps cannot give; an ``AttributeError`` too, so that ``hasattr`` works."""


@dataclass(frozen=True)
class Shown:
    """What one network shows of a batch, or the shapes that it will show, as meta tensors.

    Attributes:
        logits: [B, K].
        feats: the map that enters the first stage, then the end of every stage.
        preact_feats: the same before the activation.
        pooled_feat: [B, D]; None if the file does not read it.
        image: the images of the batch; None while connectors are built.
    """

    logits: Tensor
    feats: Sequence[Tensor] = ()
    preact_feats: Sequence[Tensor] = ()
    pooled_feat: Tensor | None = None
    image: Tensor | None = None

    @classmethod
    def both(cls, pairs: Iterable[TapPair], logits: Sequence[Tensor], image: Tensor | None = None) -> tuple[Self, Self]:
        """Sort the taps of a step by what they are: of the student, and of the teacher.

        Vectors are the pooled feature, inputs of activations (``.pre``, ``:in``) are pre-activations, all other maps features;
        the stem is both, as in the tree.
        """
        kinds: dict[str, list[TapPair]] = {kind: [] for kind in ("logits", "pooled", "stem", "before", "after")}
        for pair in pairs:
            kinds[_kind(pair)].append(pair)
        maps = kinds["stem"] + kinds["after"] if kinds["after"] else []
        early = kinds["stem"] + kinds["before"] if kinds["before"] else []

        parts = (maps, early, kinds["pooled"])
        return cls._of("student", logits[0], parts, image), cls._of("teacher", logits[1], parts, image)

    @classmethod
    def _of(cls, side: str, logits: Tensor, parts: Sequence[Sequence[TapPair]], image: Tensor | None) -> Self:
        feats, preacts, vectors = ([getattr(pair, side) for pair in part] for part in parts)
        return cls(logits, feats, preacts, vectors[0] if vectors else None, image)

    def drawn(self, image: Tensor) -> Self:
        """Random tensors of these shapes, for a batch of images."""
        shown = _like(self, lambda tensor: torch.randn(len(image), *tensor.shape[1:]).requires_grad_())
        return replace(shown, image=image)

    @property
    def features(self) -> dict[str, Any]:
        """What is there of the three, by the tree's names."""
        values = {name: getattr(self, name) for name in FEATURES}
        return {name: value for name, value in values.items() if value is not None and len(value)}

    def describe(self) -> str:
        """The shapes of one image in words."""
        shapes = {name: _shape(value) for name, value in {"logits": self.logits, **self.features}.items()}
        return ", ".join(f"{name} {shape}" for name, shape in shapes.items())


def _kind(pair: TapPair) -> str:
    if pair.name == "logits":
        return "logits"
    if pair.student.ndim == 2:
        return "pooled"
    if pair.name.endswith((".pre", ":in")):
        return "before"
    return "stem" if pair.name == "stem" else "after"


class Facade(nn.Module):
    """A network in the tree's form, without weights: ``logits, features = network(image)``.

    Args:
        side: ``student`` or ``teacher``, for errors.
        owner: the method, for errors.
        shapes: what the network will show, as meta tensors.
    """

    def __init__(self, side: str, owner: str, shapes: Shown) -> None:
        super().__init__()
        self.side = side
        self.owner = owner
        self.shapes = shapes
        self.shown: Shown | None = None

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """Logits and features of the step's images; while connectors are built, zeros of the right shapes.

        Raises:
            NotServed: other images than the step's are passed.
        """
        shown = self.shown
        if shown is None:
            shown = _like(self.shapes, lambda tensor: torch.zeros(len(x), *tensor.shape[1:], device=x.device))
        elif not _same(x, shown.image):
            raise NotServed(
                f"{self.owner} runs the {self.side} on other images than those of the step, such as a second view. The adapter "
                "has one forward of each network per step, so this method needs a plugin of its own."
            )
        if not torch.is_grad_enabled():
            shown = _like(shown, Tensor.detach)
        return shown.logits, _Features(self.owner, shown.features)

    def get_stage_channels(self) -> list[int]:
        """Channels of the map that enters the first stage, and of every stage."""
        return [maps.shape[1] for maps in self.shapes.feats or self.shapes.preact_feats]

    def get_bn_before_relu(self) -> list[nn.Module]:
        """Refused: a method does not receive the modules of the networks."""
        raise NotServed(
            f"{self.owner} reads the batch normalisations of the {self.side} (get_bn_before_relu). The adapter serves tensors "
            "at taps, not modules of the networks, so this method needs a plugin of its own."
        )

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("_"):
                raise  # torch and copy ask for these
            raise NotServed(
                f"{self.owner} reads {self.side}.{name}. The adapter serves logits and features of {self.side}(image), and "
                "get_stage_channels(), not the network itself, so this method needs a plugin of its own."
            ) from None


class _Features(dict[str, Any]):
    """The second thing that a network returns."""

    def __init__(self, owner: str, values: dict[str, Any]) -> None:
        super().__init__({name: list(value) if isinstance(value, list) else value for name, value in values.items()})
        self.owner = owner

    def __missing__(self, name: str) -> Any:
        if name not in FEATURES:
            raise NotServed(f"{self.owner} reads features['{name}']. The adapter serves {', '.join(FEATURES)}.")
        raise NotServed(
            f"{self.owner} reads features['{name}'], which its taps do not give. Name taps that do: "
            f"-o {self.owner}.taps=logits,stem,stages,stages.pre,embedding."
        )


def _like(shown: ShownT, change: Callable[[Tensor], Tensor]) -> ShownT:
    """Every tensor but the image changed."""
    return replace(
        shown,
        logits=change(shown.logits),
        feats=[change(maps) for maps in shown.feats],
        preact_feats=[change(maps) for maps in shown.preact_feats],
        pooled_feat=None if shown.pooled_feat is None else change(shown.pooled_feat),
    )


def _same(x: object, image: Tensor | None) -> bool:
    """Whether the two are the same images: the same memory, not merely equal values."""
    return isinstance(x, Tensor) and image is not None and x.shape == image.shape and x.data_ptr() == image.data_ptr()


def _shape(value: Any) -> str:
    return " ".join(map(_shape, value)) if isinstance(value, list) else str(list(value.shape[1:]))
