"""Loads weights safely: from safetensors, or from ``.pth`` files with ``weights_only=True``."""

from __future__ import annotations

import hashlib
import os
import pickle
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from kdengine.errors import ModelError

__all__ = [
    "Head",
    "OtherHead",
    "Part",
    "file_of_weights",
    "fingerprint_of_file",
    "load_state_of_body",
    "load_weights",
    "load_weights_of_body",
    "only_weights",
]

HOLDERS = ("state_dict", "model", "model_state_dict", "net")
"""Keys under which training scripts store the state dict in their checkpoints."""
FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
"""Environment variable that ``torch.load`` reads at every call."""
WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes that DataParallel, DDP and ``torch.compile`` add to every name."""


class OtherHead(ModelError):
    """Weights fit the network except for its head, which has another number of outputs.

    Args:
        message: what does not match.
        head: the head.
    """

    def __init__(self, message: str, head: Head) -> None:
        super().__init__(message)
        self.head = head


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


def load_weights(model: nn.Module, path: str | Path, what: str) -> None:
    """Load weights, from safetensors or from a ``.pth`` read with ``weights_only=True``.

    Args:
        model: receives the weights.
        path: a file with a state dict, or with a mapping that holds one under ``state_dict``, ``model``,
            ``model_state_dict`` or ``net``; or a run folder.
        what: the network, for errors.

    Raises:
        OtherHead: only the number of outputs differs.
        ModelError: the file is missing, unreadable, or does not match the network.
    """
    wanted, state = _states(model, path)
    problems = _mismatches(wanted, state)
    if problems:
        head, unfit = _other_head(wanted, state), _unfit(problems, path, what)
        raise unfit if head is None else OtherHead(str(unfit), head)
    model.load_state_dict(state)


def load_weights_of_body(
    model: nn.Module, path: str | Path, what: str, classifier: str | None = None, keep_head: bool = True
) -> Head | Part | None:
    """Load weights to train further; a head with another number of outputs keeps the values that it has.

    The weights may also be those of a network that is only a part of this one, its backbone.

    Args:
        model: receives the weights.
        path: as for :func:`load_weights`.
        what: the network, for errors.
        classifier: path of the layer that computes the logits, if known.
        keep_head: whether to load the classifier if it fits; not where its outputs stand for other classes.

    Returns:
        the head that was not loaded, or the part that was; None if all was.

    Raises:
        ModelError: the file is missing, unreadable, or differs in more than the head.
    """
    state = _read_state(file_of_weights(path))
    return load_state_of_body(model, state, path, what, None if keep_head else classifier)


def load_state_of_body(
    model: nn.Module, state: Mapping[str, torch.Tensor], path: str | Path, what: str, fresh: str | None = None
) -> Head | Part | None:
    """Load a state dict as :func:`load_weights_of_body` loads a file.

    Args:
        model: receives the weights.
        state: name -> tensor.
        path: where the state comes from, for errors.
        what: the network, for errors.
        fresh: path of a layer that keeps its values although the state fits.
    """
    wanted = model.state_dict()
    state = _unwrapped(state, wanted)
    head: Head | Part | None = _other_head(wanted, state)
    problems = _mismatches(wanted, state)
    if problems and head is None:
        head = _part(wanted, state)
        if head is None:
            raise _unfit(problems, path, what)
        state = {f"{head.path}.{name}": tensor for name, tensor in state.items() if f"{head.path}.{name}" in wanted}
    if head is None and fresh is not None:
        outputs = [len(tensor) for name, tensor in wanted.items() if name.startswith(f"{fresh}.") and tensor.ndim]
        head = Head(fresh, outputs[0], outputs[0]) if outputs else None
    own = {} if head is None else {name: tensor for name, tensor in wanted.items() if head.owns(name)}
    model.load_state_dict({**state, **own})
    return head


def file_of_weights(path: str | Path) -> Path:
    """The file that a path of weights means: itself, or the student of a run folder.

    Raises:
        ModelError: there is no such file.
    """
    expanded = Path(os.path.expanduser(path))
    file = expanded / "student.safetensors" if os.path.isdir(expanded) else expanded
    if not os.path.isfile(file):  # unlike Path.is_file, false for text that cannot be a path
        raise ModelError(
            f"There is no file of weights '{path}'. Give a safetensors or .pth file, or the folder of a finished run."
        )
    return file


def fingerprint_of_file(path: str | Path) -> str:
    """A short hash of a file of weights, or of the student's in a run folder.

    Raises:
        ModelError: there is no such file.
    """
    with file_of_weights(path).open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()[:16]


@contextmanager
def only_weights() -> Iterator[None]:
    """Inside, every ``torch.load``, also in libraries that create networks, reads tensors only."""
    before = os.environ.get(FORCE)
    os.environ[FORCE] = "1"
    try:
        yield
    finally:
        os.environ.pop(FORCE)
        if before is not None:
            os.environ[FORCE] = before


def _read_state(file: Path) -> dict[str, torch.Tensor]:
    try:
        if file.suffix == ".safetensors":
            tensors: dict[str, torch.Tensor] = load_file(file)
            return tensors
        state = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"'{file}' cannot be loaded safely: it is damaged, or it is a pickle of more than tensors, which may run code when "
            "loaded. Save only the state dict: torch.save(model.state_dict(), FILE)."
        ) from error
    except Exception as error:  # readers may raise anything
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"'{file}' is not a readable weights file: {first_line}. Give safetensors or .pth.") from error
    for key in HOLDERS:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ModelError(
            f"'{file}' has no state dict, a mapping of names to tensors. Save one: torch.save(model.state_dict(), FILE)."
        )
    return state


def _unwrapped(state: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    """The state without wrappers' prefixes, unless the network's own names have them."""
    for prefix in WRAPPERS * 2:
        if state and all(name.startswith(prefix) and name not in wanted for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def _states(model: nn.Module, path: str | Path) -> tuple[dict[str, torch.Tensor], Mapping[str, torch.Tensor]]:
    """The network's state dict, and that of the file under the same names."""
    wanted = model.state_dict()
    return wanted, _unwrapped(_read_state(file_of_weights(path)), wanted)


def _unfit(problems: list[str], path: str | Path, what: str) -> ModelError:
    shown = "; ".join(problems[:3]) + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")
    return ModelError(
        f"The weights in '{path}' do not match {what}: {shown}. Name the architecture and number of classes that the "
        "weights were trained with."
    )


def _other_head(wanted: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]) -> Head | None:
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


def _part(wanted: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]) -> Part | None:
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


def _mismatches(wanted: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]) -> list[str]:
    missing = [f"'{name}' is missing" for name in wanted if name not in state]
    surplus = [f"'{name}' does not exist in the network" for name in state if name not in wanted]
    shapes = [
        f"'{name}' is {list(state[name].shape)} in the file, {list(value.shape)} in the network"
        for name, value in wanted.items()
        if name in state and state[name].shape != value.shape
    ]
    return shapes + missing + surplus
