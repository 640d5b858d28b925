"""Parts of a network that are not trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from torch import nn

from kdengine.errors import SettingsError, did_you_mean

__all__ = ["BACKBONE", "Frozen", "is_within"]

BACKBONE = "backbone"
"""Stands for all of a network but its classifier."""


@dataclass(frozen=True)
class Frozen:
    """Modules and parameters that are not trained; batch normalisation among them keeps its statistics.

    Attributes:
        modules: the modules, which stay in ``eval()``.
        parameters: the parameters that were trainable before.
    """

    modules: tuple[nn.Module, ...] = ()
    parameters: tuple[nn.Parameter, ...] = ()

    @classmethod
    def of(cls, network: nn.Module, classifier: str | None, names: Sequence[str]) -> Self:
        """Freeze parts of a network.

        Args:
            network: the network.
            classifier: path of its classifier, if it has one.
            names: paths of modules, or ``backbone``.

        Raises:
            SettingsError: there is no such module, or nothing is left to train.
        """
        paths = dict(network.named_modules())
        for name in names:
            if name == BACKBONE and classifier is None:
                raise SettingsError(
                    f"train.freeze = '{BACKBONE}' needs a classifier, and none was found. Name modules instead."
                )
            if name not in (BACKBONE, *filter(None, paths)):
                near = did_you_mean(name, [BACKBONE, *filter(None, paths)]) or f"Name '{BACKBONE}' or one of its modules."
                raise SettingsError(f"train.freeze: {type(network).__name__} has no module '{name}'. {near}")

        def is_frozen(path: str) -> bool:
            around = classifier is not None and is_within(classifier, path)
            outside = not is_within(path, classifier) and not around
            return any(outside if name == BACKBONE else is_within(path, name) for name in names)

        parameters = [value for path, value in network.named_parameters() if value.requires_grad and is_frozen(path)]
        for parameter in parameters:
            parameter.requires_grad_(False)
        if parameters and not any(parameter.requires_grad for parameter in network.parameters()):
            raise SettingsError(f"train.freeze = '{','.join(names)}' leaves nothing of the network to train.")
        return cls(tuple(module for path, module in paths.items() if path and is_frozen(path)), tuple(parameters))

    def keep(self) -> None:
        """Put the modules back into ``eval()``."""
        for module in self.modules:
            module.eval()

    def release(self) -> None:
        """Let the parameters be trained again."""
        for parameter in self.parameters:
            parameter.requires_grad_(True)


def is_within(path: str, owner: str | None) -> bool:
    """Whether a parameter or module is the one called ``owner``, or lies in it."""
    return owner is not None and (path == owner or path.startswith(f"{owner}."))
