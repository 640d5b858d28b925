"""A network with its name and anatomy, and what a lane is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from kdengine.errors import ModelError
from kdengine.taps import Anatomy

__all__ = ["Network", "Pupil"]


@dataclass(frozen=True)
class Network:
    """A network with its name and its anatomy."""

    name: str
    module: nn.Module
    anatomy: Anatomy

    @classmethod
    def probed(cls, name: str, module: nn.Module, input_size: Sequence[int], num_classes: int) -> Network:
        """Probe the network, and check that it tells as many classes apart as the data has.

        Raises:
            TapError: it does not accept the input.
            ModelError: its output is not [B, num_classes].
        """
        anatomy = Anatomy.of(module, input_size, name)
        shape = tuple(anatomy.probe.logits.shape)
        if shape[1:] != (num_classes,):
            raise ModelError(
                f"'{name}' returns {list(shape)} for a batch of {shape[0]}, but the data has {num_classes} classes: "
                f"[{shape[0]}, {num_classes}] is needed. Give it as many outputs as classes."
            )
        return cls(name, module, anatomy)


@dataclass(frozen=True)
class Pupil:
    """What a lane is made of besides its methods: the networks, the data's sizes, and how to make further networks.

    Attributes:
        student: the network to train.
        teacher: the network to learn from, if any.
        num_classes: classes K of the data.
        num_samples: images in the training set.
        input_size: (C, H, W) of the images.
        new_network: makes a network with fresh weights from a model spec, ``"student"`` or ``"teacher"``.
    """

    student: Network
    teacher: Network | None
    num_classes: int
    num_samples: int
    input_size: Sequence[int]
    new_network: Callable[[str], nn.Module]
