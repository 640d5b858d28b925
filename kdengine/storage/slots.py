"""Tensors of numbered batches in one file, each behind a header that is written after it and holds its checksum.

A writer that is killed leaves a slot that is empty or fails its checksum, never one that looks whole. Writing a slot twice
leaves the same bytes, so that several processes may fill one file at the same time without a lock.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdengine.storage.contents import contents

__all__ = ["Damaged", "SlotFile", "is_dense"]

CPU = torch.device("cpu")
MAGIC = b"kdslot1\n"
SIZE = 128
"""Bytes of a header; the data behind it are aligned like torch's own memory, or sums could round differently."""
ALIGNMENT = 64
DIMENSIONS = 5
FORM = struct.Struct(f"<8sIIQBB6x{DIMENSIONS}q{DIMENSIONS}q")
"""Magic number, checksum of all that follows, mark of the batch, bytes, dimensions, dense or not, sizes, strides."""
SUMMED = 12
"""Offset of the first byte that the checksum covers."""


class Damaged(Exception):
    """The data of a slot are not what was written."""


@dataclass(frozen=True)
class SlotFile:
    """A file of tensors of one type, all float32 when they are written and read.

    Attributes:
        path: the file; it and its folder are created with the first tensor.
        dtype: what the values are kept as.
        most: most values of one tensor.
    """

    path: Path
    dtype: torch.dtype
    most: int

    @property
    def slot(self) -> int:
        """Bytes from one slot to the next."""
        return SIZE + -(-self.most * self.dtype.itemsize // ALIGNMENT) * ALIGNMENT

    def has(self, number: int) -> bool:
        """Whether a batch was written; its data are not checked."""
        head = bytearray(len(MAGIC))
        return self._read(number, memoryview(head)) == len(MAGIC) and head == MAGIC

    def read(self, number: int, mark: int = 0, device: torch.device = CPU) -> Tensor | None:
        """The tensor of a batch, float32 with the strides that it was written with; None if there is none.

        Args:
            number: of the batch, from 0.
            mark: what was given with it; 0 on either side if that is not known.
            device: where the tensor goes, in one copy that the host does not wait for.

        Raises:
            Damaged: it is not what was written, or was written with another mark.
        """
        buffer = torch.empty(self.slot, dtype=torch.uint8, pin_memory=device.type == "cuda")
        view = buffer.numpy().data
        count = self._read(number, view)
        if count < SIZE or not any(view[: len(MAGIC)]):
            return None
        magic, checksum, given, length, dimensions, dense, *shape = FORM.unpack_from(view)
        whole = magic == MAGIC and SIZE + length <= count and zlib.crc32(view[SUMMED : SIZE + length]) == checksum
        if not whole or (given and mark and given != mark):
            raise Damaged
        sizes, strides = shape[:dimensions], shape[DIMENSIONS : DIMENSIONS + dimensions]
        data = buffer[SIZE : SIZE + length].to(device, non_blocking=True)
        return _as_it_was(data.view(self.dtype).float(), sizes, strides, bool(dense))

    def write(self, number: int, tensor: Tensor, mark: int = 0) -> None:
        """Keep the tensor of a batch, [B, ...] float32: first its data, then the header.

        Args:
            number: of the batch, from 0.
            tensor: of at most :attr:`most` values and 5 dimensions.
            mark: tells the batch from others that might come in its place.

        Raises:
            OSError: it cannot be written; the slot is then read as empty or damaged.
        """
        dense = is_dense(tensor)
        flat = tensor.as_strided((tensor.numel(),), (1,)) if dense else tensor.contiguous().flatten()
        data = contents(flat.detach().cpu().to(self.dtype))
        rest = (0,) * (DIMENSIONS - tensor.ndim)
        shape = (*tensor.shape, *rest, *tensor.stride(), *rest)
        head = bytearray(SIZE)
        FORM.pack_into(head, 0, MAGIC, 0, mark, len(data), tensor.ndim, dense, *shape)
        checksum = zlib.crc32(data, zlib.crc32(head[SUMMED:]))
        struct.pack_into("<I", head, len(MAGIC), checksum)
        with _opened(self.path) as file:
            _write_at(file, number * self.slot + SIZE, data)
            _write_at(file, number * self.slot, memoryview(head))

    def _read(self, number: int, into: memoryview) -> int:
        """Read from the start of a slot; returns how many bytes there were."""
        try:
            with FileIO(self.path) as file:
                file.seek(number * self.slot)
                count = 0
                while count < len(into) and (more := file.readinto(into[count:])):
                    count += more
                return count
        except FileNotFoundError:
            return 0


def is_dense(tensor: Tensor) -> bool:
    """Whether the values lie side by side in memory, in whatever order of the dimensions."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride != expected:
            return False
        expected *= size
    return True


def _as_it_was(flat: Tensor, sizes: Sequence[int], strides: Sequence[int], dense: bool) -> Tensor:
    """The tensor in its own layout: the layout decides the order in which later sums add up."""
    if dense:
        return flat.as_strided(sizes, strides)
    if 0 in strides:  # several places share memory, which cannot be written one by one
        return flat.view(*sizes)
    return torch.empty_strided(sizes, strides, device=flat.device).copy_(flat.view(*sizes))


def _opened(path: Path) -> FileIO:
    """The file for writing, created with its folder if it does not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return FileIO(path, "r+")


def _write_at(file: FileIO, offset: int, data: Any) -> None:
    file.seek(offset)
    while data:
        data = data[file.write(data) :]
