"""What the networks of the zoo share: numbered stages, pooling, classifier, and timm's interface around them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

__all__ = ["Network", "he_and_small_linear", "he_fan_out", "linear"]


class Network(nn.Module, ABC):
    """Stages named ``layer1``, ``layer2`` ..., then average pooling, then one linear layer.

    A subclass makes its stem, calls :meth:`add_stages` and then :meth:`finish`, and defines in :meth:`forward_features` what
    comes before and after the stages.
    """

    num_classes: int
    num_features: int
    head_hidden_size: int
    feature_info: list[dict[str, Any]]
    """The ends of the stages, as timm lists them, preceded by the stem where there is one."""

    def add_stages(
        self,
        stages: Sequence[nn.Module],
        widths: Sequence[int],
        reductions: Sequence[int],
        stem: tuple[str, int, int] | None = None,
    ) -> None:
        """Name the stages and record where they end.

        Args:
            stages: modules that are called one after the other.
            widths: channels of each stage.
            reductions: how many times smaller than the image, per side, each stage's output is.
            stem: module that ends the stem, its channels and its reduction.
        """
        self.stages = [f"layer{number}" for number, _ in enumerate(stages, 1)]
        for name, stage in zip(self.stages, stages, strict=True):
            self.add_module(name, stage)
        ends = [*([stem] if stem else []), *zip(self.stages, widths, reductions, strict=True)]
        self.feature_info = [{"module": name, "num_chs": width, "reduction": reduction} for name, width, reduction in ends]

    def finish(self, width: int, num_classes: int, drop_rate: float, places: int = 1, hidden: int | None = None) -> None:
        """Add the head and initialise all layers.

        Args:
            width: channels C of the last map.
            num_classes: outputs K; 0 omits the classifier.
            drop_rate: dropout before the classifier.
            places: rows and columns to which the last map is average-pooled.
            hidden: length of the classifier's input, where the subclass has layers of its own before it.
        """
        self.num_features = width
        self.head_hidden_size = hidden or width * places**2
        self.global_pool = nn.AdaptiveAvgPool2d(places)
        self.flatten = nn.Flatten(1)
        self.head_drop = nn.Dropout(drop_rate)
        self.reset_classifier(num_classes)
        self.apply(self.fill)

    def fill(self, module: nn.Module) -> None:
        """Initialise one layer; torch's own initialisation stays unless a subclass overrides this."""
        return

    def get_classifier(self) -> nn.Module:
        """The layer that makes the logits."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a fresh one, as timm does; the pooling is always the mean."""
        self.num_classes = num_classes
        self.fc = linear(self.head_hidden_size, num_classes).apply(self.fill)

    @abstractmethod
    def forward_features(self, x: Tensor) -> Tensor:
        """[B, in_chans, H, W] -> [B, C, H', W']: everything but the head."""

    def forward_stages(self, x: Tensor) -> Tensor:
        """Output of the stem -> output of the last stage."""
        for name in self.stages:
            x = getattr(self, name)(x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """[B, C, H', W'] -> [B, K]; with ``pre_logits`` the classifier's input, the pooled [B, C]."""
        x = self.head_drop(self.flatten(self.global_pool(x)))
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_chans, H, W] -> [B, K]."""
        return self.forward_head(self.forward_features(x))


def linear(width: int, num_classes: int) -> nn.Module:
    """A linear layer, or the identity if there are no classes."""
    return nn.Linear(width, num_classes) if num_classes else nn.Identity()


def he_fan_out(module: nn.Module) -> None:
    """Draw a convolution from N(0, 2 / (k^2 C_out)), with zero biases; other layers stay as they are.

    Source: He et al., "Delving Deep into Rectifiers", ICCV 2015, arXiv:1502.01852, the form for the backward pass.
    """
    if isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
        nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / fan_out))
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def he_and_small_linear(module: nn.Module) -> None:
    """Draw convolutions after He and linear layers from N(0, 0.01^2); biases are zero."""
    he_fan_out(module)
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, 0.0, 0.01)
        nn.init.zeros_(module.bias)
