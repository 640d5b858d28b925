"""Loads weights safely: from safetensors, or from ``.pth`` files with ``weights_only=True``."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from kdengine.errors import ModelError

__all__ = ["load_weights", "only_weights"]

HOLDERS = ("state_dict", "model", "model_state_dict", "net")
"""Keys under which training scripts store the state dict in their checkpoints."""
FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
"""Environment variable that ``torch.load`` reads at every call."""
WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes that DataParallel, DDP and ``torch.compile`` add to every name."""


def load_weights(model: nn.Module, path: str | Path, what: str) -> None:
    """Load weights, from safetensors or from a ``.pth`` read with ``weights_only=True``.

    Args:
        model: receives the weights.
        path: a file with a state dict, or with a mapping that holds one under ``state_dict``, ``model``,
            ``model_state_dict`` or ``net``; or a run folder.
        what: the network, for errors.

    Raises:
        ModelError: the file is missing, unreadable, or does not match the network.
    """
    expanded = Path(os.path.expanduser(path))
    file = expanded / "student.safetensors" if os.path.isdir(expanded) else expanded
    if not os.path.isfile(file):  # unlike Path.is_file, false for text that cannot be a path
        raise ModelError(
            f"There is no file of weights '{path}'. Give a safetensors or .pth file, or the folder of a finished run."
        )
    wanted = model.state_dict()
    state = _unwrapped(_read_state(file), wanted)
    problems = _mismatches(wanted, state)
    if problems:
        shown = "; ".join(problems[:3]) + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")
        raise ModelError(
            f"The weights in '{path}' do not match {what}: {shown}. Name the architecture and number of classes that the "
            "weights were trained with."
        )
    model.load_state_dict(state)


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


def _mismatches(wanted: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]) -> list[str]:
    missing = [f"'{name}' is missing" for name in wanted if name not in state]
    surplus = [f"'{name}' does not exist in the network" for name in state if name not in wanted]
    shapes = [
        f"'{name}' is {list(state[name].shape)} in the file, {list(value.shape)} in the network"
        for name, value in wanted.items()
        if name in state and state[name].shape != value.shape
    ]
    return shapes + missing + surplus
