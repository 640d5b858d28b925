"""How the tensors of some weights fit a network: in full, but for the head, or as a part of it."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import nn

__all__ = ["Head", "Part", "mismatches", "other_head", "own_head", "part_filled", "without_head"]


@dataclass(frozen=True)
class Head:
    """A network's last layer, where weights have another one.

    Attributes:
        path: of the layer in the network.
        outputs: outputs of the network.
        outputs_before: outputs of the network that the weights come from.
    """

    path: str
    outputs: int
    outputs_before: int

    def owns(self, name: str) -> bool:
        """Whether a tensor of the state dict belongs to it."""
        return name.startswith(f"{self.path}.")

    def __str__(self) -> str:
        return f"all but the head '{self.path}' ({self.outputs_before} -> {self.outputs} classes)"


@dataclass(frozen=True)
class Part:
    """The part of a network that weights of a whole other network fill, as those of a backbone do in front of a new head.

    Attributes:
        path: of the part in the network.
        left_out: layers of the other network that the part lacks, such as its head.
    """

    path: str
    left_out: tuple[str, ...]

    def owns(self, name: str) -> bool:
        """Whether a tensor of the state dict lies outside, and keeps its values."""
        return not name.startswith(f"{self.path}.")

    def __str__(self) -> str:
        shown = ", ".join(map(repr, self.left_out[:3])) + (f" and {len(self.left_out) - 3} more" if self.left_out[3:] else "")
        without = f", without {shown}" if shown else ""
        return f"'{self.path}'{without}; all else starts fresh"


def without_head(model: nn.Module, state: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    """The weights of a classifier left out where the network was made without one, and so has the identity in its place."""
    wanted = model.state_dict()
    modules = dict(model.named_modules())
    heads = {name for name in state if name not in wanted and isinstance(modules.get(name.rpartition(".")[0]), nn.Identity)}
    made_without = getattr(model, "num_classes", None) == 0
    return {name: tensor for name, tensor in state.items() if name not in heads} if made_without and heads else state


def own_head(wanted: Mapping[str, torch.Tensor], classifier: str | None) -> Head | None:
    """The network's own classifier as a head that starts fresh."""
    outputs = [len(tensor) for name, tensor in wanted.items() if name.startswith(f"{classifier}.") and tensor.ndim]
    return Head(classifier, outputs[0], outputs[0]) if classifier is not None and outputs else None


def other_head(wanted: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]) -> Head | None:
    """The layer whose number of outputs alone keeps the weights from fitting; nothing can follow it, so it is the head."""
    unlike = [name for name in wanted if name in state and state[name].shape != wanted[name].shape]
    paths = {name.rpartition(".")[0] for name in unlike}
    if wanted.keys() != state.keys() or len(paths) != 1 or "" in paths:
        return None
    path = paths.pop()
    shapes = [(wanted[name].shape, state[name].shape) for name in wanted if name.startswith(f"{path}.")]
    counts = {(new[0], old[0]) for new, old in shapes if new and old}
    resized = any(new[1:] != old[1:] for new, old in shapes)
    return None if resized or len(counts) != 1 else Head(path, *counts.pop())


def part_filled(wanted: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]) -> Part | None:
    """The part of the network whose tensors are all in the state, under the same names and of the same shapes.

    It must hold more than half of the state. What is left out of modules that are filled must come last: it leads to a head,
    and is no layer between others.
    """
    paths = (name[: dot.start()] for name in wanted for dot in re.finditer(r"\.", name))
    for path in dict.fromkeys(paths):
        inside = [name.removeprefix(f"{path}.") for name in wanted if name.startswith(f"{path}.")]
        fits = all(name in state and state[name].shape == wanted[f"{path}.{name}"].shape for name in inside)
        if fits and 2 * len(inside) > len(state) and _stand_apart(inside, list(state)):
            surplus = (name for name in state if name not in inside)
            return Part(path, tuple(dict.fromkeys(name.rpartition(".")[0] or name for name in surplus)))
    return None


def _stand_apart(inside: Collection[str], names: list[str]) -> bool:
    """Whether the other names, in the order of a state, belong to other modules or follow all that are inside."""
    modules = {name.partition(".")[0] for name in inside}
    last = max(place for place, name in enumerate(names) if name in inside)
    return not any(name not in inside and name.partition(".")[0] in modules for name in names[:last])


def mismatches(wanted: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]) -> list[str]:
    """What keeps the tensors of a state from being those that a network wants, in words; empty if nothing does."""
    missing = [f"'{name}' is missing" for name in wanted if name not in state]
    surplus = [f"'{name}' does not exist in the network" for name in state if name not in wanted]
    shapes = [
        f"'{name}' is {list(state[name].shape)} in the file, {list(value.shape)} in the network"
        for name, value in wanted.items()
        if name in state and state[name].shape != value.shape
    ]
    return shapes + missing + surplus
