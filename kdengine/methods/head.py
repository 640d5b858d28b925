"""Classifiers and modules of a network that a method may use but not train."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

__all__ = ["Head", "MeanOf", "ModuleView", "classify"]


def classify(classifier: Callable[[Tensor], Tensor], features: Tensor, convolution: bool) -> Tensor:
    """Apply a classifier to an embedding [B, D] -> [B, K], or at every position of tokens or of a map.

    Args:
        classifier: takes [B, D, H, W] if it is a convolution, else [..., D].
        features: [B, D], tokens [B, N, D] or a map [B, D, H, W].
        convolution: whether the classifier is a 1 x 1 convolution.

    Returns:
        [B, K], [B, N, K] or [B, K, H, W]; the mean over all positions of a map is the classifier of its mean.
    """
    if features.ndim == 4:
        if convolution:
            return classifier(features)
        count, width, rows, columns = features.shape
        flat = classifier(features.permute(0, 2, 3, 1).reshape(-1, width))
        return flat.reshape(count, rows, columns, -1).permute(0, 3, 1, 2)
    flat = features.reshape(-1, features.shape[-1])
    outputs = classifier(flat[:, :, None, None] if convolution else flat)
    return outputs.reshape(*features.shape[:-1], -1)


class Head(nn.Module):
    """The classifier of the teacher, frozen but differentiable: :func:`classify` with its weights.

    It has no parameters of its own and keeps none in a saved state: it reads those of the teacher.

    Args:
        owner: returns the classifier.
    """

    def __init__(self, owner: Callable[[], nn.Module]) -> None:
        super().__init__()
        self._owner = owner

    def forward(self, features: Tensor) -> Tensor:
        """An embedding [B, D] -> logits [B, K]; tokens [B, N, D] -> [B, N, K]; a map [B, D, H, W] -> [B, K, H, W]."""
        module = self._owner()
        frozen = {name: value.detach() for name, value in (*module.named_parameters(), *module.named_buffers())}
        return classify(lambda inputs: functional_call(module, frozen, (inputs,)), features, isinstance(module, nn.Conv2d))

    def copied(self) -> nn.Module:
        """A copy to ship: a module that takes what this one takes, with frozen weights of its own."""
        return ShippedHead(copy.deepcopy(self._owner()).eval().requires_grad_(False))

    def __deepcopy__(self, memo: dict[int, Any]) -> Head:
        """Copies read the same teacher."""
        return Head(self._owner)


class MeanOf(nn.Module):
    """The mean of what several modules make of the same input, such as the two heads of a network that was itself distilled.

    Args:
        parts: the modules.
    """

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, inputs: Tensor) -> Tensor:
        """[...] -> what each part returns, averaged."""
        return torch.stack([part(inputs) for part in self.parts]).mean(0)


class ShippedHead(nn.Module):
    """A classifier with weights of its own, applied as :func:`classify` does.

    Args:
        classifier: the layer.
    """

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, features: Tensor) -> Tensor:
        """[B, D] -> [B, K], [B, N, D] -> [B, N, K], [B, D, H, W] -> [B, K, H, W]."""
        return classify(self.classifier, features, isinstance(self.classifier, nn.Conv2d))


class ModuleView:
    """Read-only access to a module of the teacher: ``view.running_mean`` is its tensor, detached; nothing can be set.

    Args:
        owner: returns the module.
    """

    __slots__ = ("_owner",)
    _owner: Callable[[], nn.Module]

    def __init__(self, owner: Callable[[], nn.Module]) -> None:
        object.__setattr__(self, "_owner", owner)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._owner(), name)
        return value.detach() if isinstance(value, Tensor) else value

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"The teacher is frozen: '{name}' of its {type(self._owner()).__name__} cannot be set.")

    def __deepcopy__(self, memo: dict[int, Any]) -> ModuleView:
        """Copies read the same teacher."""
        return ModuleView(self._owner)

    def __repr__(self) -> str:
        return f"ModuleView({self._owner()})"
