"""Loads weights safely: from safetensors, or from ``.pth`` files with ``weights_only=True``."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from kdengine.errors import ModelError, cause, missing
from kdengine.networks.fitting import Head, Part, mismatches, other_head, own_head, part_filled, without_head
from kdengine.storage.names import LAST, PUBLISHED, uncompiled

__all__ = [
    "OtherHead",
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
WRAPPER = "module."
"""Prefix that DataParallel and DDP add to every name."""


class OtherHead(ModelError):
    """Weights fit the network except for its head, which has another number of outputs.

    Args:
        message: what does not match.
        head: the head.
    """

    def __init__(self, message: str, head: Head) -> None:
        super().__init__(message)
        self.head = head


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
    state = without_head(model, state)
    problems = mismatches(wanted, state)
    if problems:
        head, unfit = other_head(wanted, state), _unfit(problems, path, what)
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
    return load_state_of_body(model, state, path, what, classifier, keep_head)


def load_state_of_body(
    model: nn.Module,
    state: Mapping[str, torch.Tensor],
    path: str | Path,
    what: str,
    classifier: str | None = None,
    keep_head: bool = True,
) -> Head | Part | None:
    """Load a state dict as :func:`load_weights_of_body` loads a file.

    Args:
        model: receives the weights.
        state: name -> tensor.
        path: where the state comes from, for errors.
        what: the network, for errors.
        classifier: path of the layer that computes the logits, if known; a state that lacks it altogether is of a backbone.
        keep_head: whether to load the classifier if it fits.
    """
    wanted = model.state_dict()
    state = without_head(model, _unwrapped(state, wanted))
    head: Head | Part | None = other_head(wanted, state)
    own = own_head(wanted, classifier)
    if head is None and own is not None and not any(own.owns(name) for name in state):
        headless = {**state, **{name: tensor for name, tensor in wanted.items() if own.owns(name)}}
        if not mismatches(wanted, headless):
            head, state = replace(own, outputs_before=0), headless
    problems = mismatches(wanted, state)
    if problems and head is None:
        head = part_filled(wanted, state)
        if head is None:
            raise _unfit(problems, path, what)
        state = {f"{head.path}.{name}": tensor for name, tensor in state.items() if f"{head.path}.{name}" in wanted}
    if head is None and not keep_head:
        head = own
    kept = {} if head is None else {name: tensor for name, tensor in wanted.items() if head.owns(name)}
    model.load_state_dict({**state, **kept})
    return head


def file_of_weights(path: str | Path) -> Path:
    """The file that a path of weights means: itself, or the student of a run folder.

    Raises:
        ModelError: there is no such file.
    """
    expanded = Path(os.path.expanduser(path))
    file = expanded
    if os.path.isdir(expanded):
        file = next((expanded / name for name in (LAST, PUBLISHED) if (expanded / name).is_file()), expanded / LAST)
    if not os.path.isfile(file):  # unlike Path.is_file, false for text that cannot be a path
        fix = "Give a safetensors or .pth file, or the folder of a finished run."
        raise ModelError(f"{missing('file of weights', path)} {fix}")
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
        first_line = cause(error).splitlines()[0].rstrip(".")
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
    """The state under the network's names, whatever wrapped the network that was saved, or wraps this one."""
    own = {uncompiled(name): name for name in wanted}
    state = {uncompiled(name): tensor for name, tensor in state.items()}
    while state and all(name.startswith(WRAPPER) and name not in own for name in state):
        state = {name.removeprefix(WRAPPER): tensor for name, tensor in state.items()}
    return {own.get(name, name): tensor for name, tensor in state.items()}


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
