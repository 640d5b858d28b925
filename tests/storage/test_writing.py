import json
import os

import pytest
import torch
from safetensors.torch import load_file

from kdengine import StorageError
from kdengine.storage.writing import remove_leftovers, write_json, write_state, write_tensors, write_text

WRITERS = {
    "text": lambda path, size: write_text(path, "x" * size),
    "json": lambda path, size: write_json(path, {"x": "x" * size}),
    "tensors": lambda path, size: write_tensors(path, {"x": torch.zeros(size)}),
    "state": lambda path, size: write_state(path, {"x": torch.zeros(size)}),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_that_cannot_take_the_place_of_another_leaves_that_as_it_was(kind, tmp_path, monkeypatch):
    path = tmp_path / "file"
    WRITERS[kind](path, 3)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kdengine.storage.writing.os.replace", full)
    with pytest.raises(
        StorageError, match=r"file' cannot be written: No space left on device. What was written before is kept"
    ):
        WRITERS[kind](path, 4)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.sample(1)
@pytest.mark.parametrize("kind", WRITERS)
def test_a_disk_that_is_full_in_the_middle_of_a_file_is_told_and_the_old_file_stays(kind, tmp_path, python):
    said = python(
        f"""
        import os, resource, signal
        from pathlib import Path
        from tests.storage.test_writing import WRITERS
        from kdengine import StorageError
        path = Path({str(tmp_path / "file")!r})
        WRITERS[{kind!r}](path, 3)
        before = path.read_bytes()
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
        try:
            WRITERS[{kind!r}](path, 200_000)
        except StorageError as error:
            print(error)
        assert path.read_bytes() == before
        assert os.listdir(path.parent) == ["file"]
        """
    )
    assert "file' cannot be written: " in said


def test_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(StorageError, match="No such file or directory"):
        write_text(tmp_path / "nowhere" / "file", "x")


@pytest.mark.parametrize("kind", WRITERS)
def test_who_may_read_new_files_of_the_user_may_read_these(kind, tmp_path):
    (tmp_path / "ordinary").touch()
    WRITERS[kind](tmp_path / "file", 3)
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_tensors_that_share_memory_are_written_out_each(tmp_path):
    weight = torch.arange(6.0).view(2, 3)
    write_tensors(tmp_path / "file", {"a": weight, "b": weight, "turned": weight.T})
    found = load_file(tmp_path / "file")
    assert torch.equal(found["a"], found["b"])
    assert torch.equal(found["turned"], weight.T)


def test_a_state_needs_no_pickle_of_ours(tmp_path):
    write_state(tmp_path / "file", {"weights": {"a": torch.ones(2)}, "epoch": 3, "history": [{"loss": 0.5}]})
    found = torch.load(tmp_path / "file", weights_only=True)
    assert found["history"] == [{"loss": 0.5}]


def test_json_is_for_every_reader_even_where_a_number_is_none(tmp_path):
    write_json(tmp_path / "file", {"loss": float("nan"), "terms": [1.5, float("-inf")]})
    assert json.loads((tmp_path / "file").read_text(), parse_constant=pytest.fail) == {"loss": None, "terms": [1.5, None]}


def test_what_a_killed_process_left_half_written_is_removed_and_nothing_else(tmp_path):
    for name in (".metrics.jsonl.12.writing", ".mine", "notes.12.writing", "run.toml"):
        (tmp_path / name).write_text("x")
    remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".mine", "notes.12.writing", "run.toml"]
