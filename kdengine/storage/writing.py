"""Writing files whole or not at all, so that a folder can be read at any instant, and after any crash."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from kdengine.errors import StorageError
from kdengine.storage.jsontext import json_text

__all__ = ["remove_leftovers", "replacing", "write_json", "write_state", "write_tensors", "write_text"]

LEFTOVER = re.compile(r"\..+\.\d+\.writing")
"""Names of files that were being written when a process was killed."""


def write_text(path: Path, text: str) -> None:
    """Write a text file.

    Raises:
        StorageError: it cannot be written; what was there before is still there.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file; numbers that JSON does not know become null.

    Raises:
        StorageError: it cannot be written; what was there before is still there.
    """
    write_text(path, json_text(value, indent=2) + "\n")


def write_tensors(path: Path, tensors: Mapping[str, Any]) -> None:
    """Write a safetensors file; tensors that share memory are written out each, and what is no tensor is left out.

    Raises:
        StorageError: it cannot be written; what was there before is still there.
    """
    separate = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items() if isinstance(value, Tensor)}
    with replacing(path) as temporary:
        save_file(separate, temporary)


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write tensors and plain data, for ``torch.load(weights_only=True)``.

    Raises:
        StorageError: it cannot be written; what was there before is still there.
    """
    with replacing(path) as temporary, temporary.open("wb") as file:
        torch.save(dict(state), file)


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed process had begun to write; nobody may be writing into the folder."""
    for file in folder.glob(".*.writing"):
        if LEFTOVER.fullmatch(file.name):
            with suppress(OSError):
                file.unlink()


@contextmanager
def replacing(final: Path) -> Iterator[Path]:
    """A temporary path that takes the place of ``final`` when the block ends well, on the disk and not only in memory.

    Raises:
        StorageError: it cannot be written; what was there before is still there.
    """
    temporary = final.with_name(f".{final.name}.{os.getpid()}.writing")
    try:
        temporary.touch()
        readers = temporary.stat().st_mode  # some libraries write files that nobody else may read
        yield temporary
        temporary.chmod(readers)
        _flush(temporary)
        os.replace(temporary, final)
        _flush(final.parent)
    except (OSError, SafetensorError, RuntimeError) as error:  # torch tells of a full disk by a RuntimeError
        raise StorageError(f"'{final}' cannot be written: {_reason(error)}. What was written before is kept.") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Wait until a file, or the list of names in a folder, is on the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows cannot open folders
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
