"""Tensors come back with every bit and stride; what was cut off or damaged never does."""

import struct
import subprocess
import sys
import zlib

import pytest
import torch

from kdengine.storage.slots import ALIGNMENT, SIZE, Damaged, SlotFile, is_dense

MAP = torch.randn(4, 3, 6, 5, generator=torch.Generator().manual_seed(0)).bfloat16().float()
LAYOUTS = {
    "vectors": MAP.flatten(1),
    "rows": MAP,
    "channels last": MAP.contiguous(memory_format=torch.channels_last),
    "one channel": MAP[:, :1].contiguous(memory_format=torch.channels_last),
    "tokens": MAP.flatten(2).transpose(1, 2),
    "cut": MAP.contiguous(memory_format=torch.channels_last)[:, :, 1:, 1:],
    "patches": MAP.flatten(2)[:, :, 2:].transpose(1, 2).transpose(1, 2).reshape(4, 3, 7, 4),
    "a single image": MAP[:1],
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_tensor_comes_back_with_every_bit_and_stride(layout, dtype, tmp_path):
    tensor, file = LAYOUTS[layout], SlotFile(tmp_path / "deep" / "file", dtype, MAP.numel())
    file.write(3, tensor, mark=7)
    found = file.read(3, 7)
    assert torch.equal(found, tensor)
    assert (found.shape, found.stride(), found.dtype) == (tensor.shape, tensor.stride(), torch.float32)
    assert is_dense(tensor) == is_dense(found)
    assert found.data_ptr() % ALIGNMENT == 0, "sums over memory that is aligned otherwise may round otherwise"


def test_a_tensor_whose_places_share_memory_comes_back_with_its_values(tmp_path):
    file, tensor = SlotFile(tmp_path / "file", torch.float32, 40), torch.arange(4.0)[:, None].expand(4, 10)
    file.write(0, tensor)
    assert torch.equal(file.read(0), tensor)


def test_what_comes_back_may_be_written_to_and_changes_no_file(tmp_path):
    file = SlotFile(tmp_path / "file", torch.float32, MAP.numel())
    file.write(0, MAP)
    file.read(0).zero_()
    assert torch.equal(file.read(0), MAP)


def test_slots_that_nobody_wrote_are_empty(tmp_path):
    file = SlotFile(tmp_path / "file", torch.float32, 10)
    assert (file.read(0), file.has(0)) == (None, False)
    file.write(2, torch.ones(1, 10))
    assert [file.has(number) for number in range(5)] == [False, False, True, False, False]
    assert [file.read(number) is None for number in (0, 1, 3, 99)] == [True] * 4
    assert (tmp_path / "file").stat().st_size <= 3 * file.slot


def test_a_batch_of_other_images_is_not_taken_for_this_one(tmp_path):
    file = SlotFile(tmp_path / "file", torch.float32, 10)
    file.write(0, torch.ones(1, 10), mark=5)
    with pytest.raises(Damaged):
        file.read(0, 6)
    assert file.read(0, 0) is not None, "where the index is not known, as on an accelerator"


def test_every_bit_counts(tmp_path):
    file = SlotFile(tmp_path / "file", torch.float32, 10)
    file.write(0, torch.arange(10.0)[None], mark=5)
    whole = file.path.read_bytes()
    reserved = set(range(SIZE - 16, SIZE)) | {26, 27, 28, 29, 30, 31}
    for place in range(8, len(whole)):
        file.path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        if place < SIZE + 40 or place not in reserved:
            with pytest.raises(Damaged):
                file.read(0, 5)


@pytest.mark.parametrize("rewriting", [False, True])
def test_a_write_that_is_cut_off_anywhere_is_never_trusted(rewriting, tmp_path, monkeypatch):
    """Whatever bytes had reached the file: the batch is whole, or empty, or damaged."""
    before, after = torch.arange(10.0)[None], torch.arange(10.0)[None] + 100
    steps = []
    monkeypatch.setattr("kdengine.storage.slots._write_at", lambda file, offset, data: steps.append((offset, bytes(data))))
    file = SlotFile(tmp_path / "file", torch.float32, 10)
    file.write(1, after)
    monkeypatch.undo()
    order = [(offset + place, byte) for offset, data in steps for place, byte in enumerate(data)]
    for cut in range(0, len(order) + 1, 3):
        file.path.unlink()
        file.write(0, before)
        if rewriting:
            file.write(1, before)
        with file.path.open("r+b") as raw:
            for offset, byte in order[:cut]:
                raw.seek(offset)
                raw.write(bytes([byte]))
        try:
            found = file.read(1)
        except Damaged:
            found = None
        assert found is None or torch.equal(found, after) or (rewriting and torch.equal(found, before))
        assert torch.equal(file.read(0), before)
        file.write(1, after)
        assert torch.equal(file.read(1), after)


def test_the_checksum_is_that_of_zlib_and_stands_behind_the_magic_number(tmp_path):
    file = SlotFile(tmp_path / "file", torch.float32, 10)
    file.write(0, torch.ones(2, 5))
    raw = file.path.read_bytes()
    assert struct.unpack_from("<I", raw, 8)[0] == zlib.crc32(raw[12 : SIZE + 40])


WRITER = """
import sys, torch
from pathlib import Path
from kdengine.storage.slots import SlotFile
file = SlotFile(Path(sys.argv[1]), torch.float32, 50000)
for number in range(60):
    file.write(number, torch.full((1, 50000), float(number)))
"""


@pytest.mark.slow
def test_two_processes_fill_one_file_at_once(tmp_path):
    command = [sys.executable, "-c", WRITER, str(tmp_path / "file")]
    writers = [subprocess.Popen(command) for _ in range(2)]
    file, read = SlotFile(tmp_path / "file", torch.float32, 50000), 0
    while any(writer.poll() is None for writer in writers):
        for number in range(60):
            found = file.read(number)
            assert found is None or torch.equal(found, torch.full((1, 50000), float(number)))
            read += found is not None
    assert [writer.returncode for writer in writers] == [0, 0]
    assert all(torch.equal(file.read(number), torch.full((1, 50000), float(number))) for number in range(60))
