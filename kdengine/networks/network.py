"""A network with its name, its anatomy and its input, and what a lane is made of."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from kdengine.config.factories import NO_FACTORIES, Factories
from kdengine.networks.inputs import Preprocess, Preprocessed
from kdengine.taps import Anatomy
from kdengine.tasks.task import Task

__all__ = ["LaneContext", "Network"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Network:
    """A network with its name, its anatomy, and what is done to the images of the data before it receives them."""

    name: str
    module: nn.Module
    anatomy: Anatomy
    preprocess: Preprocess

    @classmethod
    def probed(cls, name: str, module: nn.Module, input_size: Sequence[int], task: Task) -> Network:
        """Probe the network, and check that its output is what the task needs.

        Args:
            name: of the network.
            module: takes images of the data; one that comes with a preprocess is taken out of it.
            input_size: (C, H, W) of the images of the data.
            task: what the network is for.

        Raises:
            TapError: it does not accept the input.
            ModelError: its output has another shape than the task needs.
        """
        preprocess = module.preprocess if isinstance(module, Preprocessed) else Preprocess.none(input_size)
        module = module.module if isinstance(module, Preprocessed) else module
        anatomy = Anatomy.of(module, preprocess.wanted.size, name)
        task.check(anatomy.probe.logits, owner=name)
        return cls(name, module, anatomy, preprocess)

    @property
    def input_size(self) -> tuple[int, int, int]:
        """(C, H, W) of the images that it receives."""
        return self.preprocess.wanted.size

    def announce(self) -> None:
        """Tell what it receives, where that is not what the data makes."""
        if self.preprocess.changes:
            log.info("%s receives images of %s", self.name, self.preprocess.wanted)

    @property
    def preprocessed(self) -> nn.Module:
        """The network, taking images as the data makes them."""
        return self.preprocess.before(self.module)


@dataclass(frozen=True)
class LaneContext:
    """What a lane is made of besides its methods: the networks, the data's sizes, and how to make further networks.

    Attributes:
        student: the network to train.
        teachers: the networks to learn from, if any.
        task: what the student is for.
        num_samples: images in the training set.
        input_size: (C, H, W) of the images of the data.
        new_network: makes a network with fresh weights from a model spec, ``"student"``, ``"teacher"``, ``"teacher 2"`` and
            so on; it takes images of the data.
        factories: what makes optimizer and scheduler, if the caller passed that.
        labels: targets of all training images, [N], if the data tells them.
        lacks: says why the data cannot provide what a method needs; None if it can.
    """

    student: Network
    teachers: tuple[Network, ...]
    task: Task
    num_samples: int
    input_size: Sequence[int]
    new_network: Callable[[str], nn.Module]
    factories: Factories = NO_FACTORIES
    labels: Tensor | None = None
    lacks: Callable[[str], str | None] = lambda need: None

    def maker_for(self, number: int) -> Callable[[str], nn.Module]:
        """``new_network`` for a method that learns from the teacher of this number: ``"teacher"`` then stands for that one."""
        if number == 0:
            return self.new_network
        return lambda spec: self.new_network(f"teacher {number + 1}" if spec == "teacher" else spec)
