"""Atomic writes, so that a folder can be read at any time, also after a crash."""

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

__all__ = ["remove_leftovers", "replacing", "save_tensors", "write_json", "write_state", "write_tensors", "write_text"]

LEFTOVER = re.compile(r"\..+\.\d+\.writing")
"""Names of temporary files that a killed process leaves behind."""


def write_text(path: Path, text: str) -> None:
    """Write a text file.

    Raises:
        StorageError: the file cannot be written; its earlier content is kept.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file; non-finite numbers become null.

    Raises:
        StorageError: the file cannot be written; its earlier content is kept.
    """
    write_text(path, json_text(value, indent=2) + "\n")


def write_tensors(path: Path, tensors: Mapping[str, Any]) -> None:
    """Write a safetensors file; tensors that share memory are written separately, and non-tensors are left out.

    Raises:
        StorageError: the file cannot be written; its earlier content is kept.
    """
    with replacing(path) as temporary:
        save_tensors(temporary, tensors)


def save_tensors(path: Path, tensors: Mapping[str, Any], notes: Mapping[str, str] | None = None) -> None:
    """Save tensors as :func:`write_tensors` does, straight to a path that nobody reads yet.

    Args:
        path: the file.
        tensors: name -> tensor.
        notes: metadata of the file.
    """
    separate = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items() if isinstance(value, Tensor)}
    save_file(separate, path, None if notes is None else dict(notes))


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write tensors and plain data, for ``torch.load(weights_only=True)``.

    Raises:
        StorageError: the file cannot be written; its earlier content is kept.
    """
    with replacing(path) as temporary, temporary.open("wb") as file:
        torch.save(dict(state), file)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of a killed process; the caller must hold the lock of the folder."""
    for file in folder.glob(".*.writing"):
        if LEFTOVER.fullmatch(file.name):
            with suppress(OSError):
                file.unlink()


@contextmanager
def replacing(final: Path) -> Iterator[Path]:
    """A temporary path that replaces ``final`` if the block succeeds; both are flushed to disk.

    Raises:
        StorageError: the file cannot be written; its earlier content is kept.
    """
    temporary = final.with_name(f".{final.name}.{os.getpid()}.writing")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # some libraries create files that only their owner can read
        yield temporary
        temporary.chmod(mode)
        _flush(temporary)
        os.replace(temporary, final)
        _flush(final.parent)
    except (OSError, SafetensorError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        raise StorageError(f"'{final}' cannot be written: {_reason(error)}. What was written before is kept.") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are on disk."""
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
