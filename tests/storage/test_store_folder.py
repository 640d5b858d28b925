import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kdengine import SettingsError
from kdengine.errors import StorageError
from kdengine.storage.store_folder import FORMAT, StoreFolder, taken

NOTE = {"format": FORMAT, "batches": {}, "seeds": [], "teachers": {}}


def test_a_new_store_has_no_note_and_looking_at_it_makes_none(tmp_path):
    folder = StoreFolder(tmp_path / "new")
    assert (folder.note(), folder.size, folder.free > 0) == ({}, 0, True)
    assert not folder.path.exists()


def test_a_folder_with_something_else_in_it_is_refused(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    with pytest.raises(SettingsError, match=r"is no teacher store: it holds 'cat\.jpg'"):
        StoreFolder(tmp_path / "photos").note()
    with pytest.raises(SettingsError, match="is a file"):
        StoreFolder(tmp_path / "photos" / "cat.jpg").note()


def test_changes_of_several_writers_are_all_kept(tmp_path):
    def add(seed):
        def change(note):
            note |= {} if note else NOTE
            note["seeds"] = sorted({*note["seeds"], seed})

        StoreFolder(tmp_path / "store").change(change)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(24)))
    assert StoreFolder(tmp_path / "store").note()["seeds"] == list(range(24))


def test_a_note_that_another_has_written_meanwhile_is_nothing_foreign(tmp_path, monkeypatch):
    folder = StoreFolder(tmp_path / "store")
    folder.change(lambda note: note.update(NOTE))
    monkeypatch.setattr(Path, "is_file", lambda self: False)  # as it was when the note was looked for
    assert folder.note() == {}


def test_a_change_that_is_refused_changes_nothing(tmp_path):
    folder = StoreFolder(tmp_path / "store")
    folder.change(lambda note: note.update(NOTE))

    def refused(note):
        note["seeds"].append(3)
        raise SettingsError("no")

    with pytest.raises(SettingsError, match="no"):
        folder.change(refused)
    assert folder.note() == NOTE


def test_a_note_of_another_format_or_that_is_damaged_is_refused(tmp_path):
    folder = StoreFolder(tmp_path)
    (tmp_path / "store.json").write_text(json.dumps({**NOTE, "format": FORMAT + 1}))
    with pytest.raises(StorageError, match=rf"has the format {FORMAT + 1}.* reads {FORMAT}"):
        folder.note()
    (tmp_path / "store.json").write_text("{")
    with pytest.raises(StorageError, match=r"store\.json' is damaged"):
        folder.note()


def test_names_of_teachers_and_taps_make_no_folders_of_their_own(tmp_path):
    file = StoreFolder(tmp_path).epoch_file("hf-hub:a/b", 3, "epoch-0", "layer2.0:in")
    assert file.relative_to(tmp_path).parts == ("hf-hub%3Aa%2Fb", "seed-3", "epoch-0", "layer2.0%3Ain")


def test_what_a_file_takes_up_is_counted(tmp_path):
    (tmp_path / "file").write_bytes(b"x" * 100_000)
    assert 100_000 <= taken(tmp_path / "file") <= 120_000
    assert taken(tmp_path / "nothing") == 0
    assert StoreFolder(tmp_path).size >= 100_000


def test_a_change_that_changes_nothing_needs_no_right_to_write(tmp_path, monkeypatch):
    folder = StoreFolder(tmp_path)
    folder.change(lambda note: note.update(NOTE))
    monkeypatch.setattr("kdengine.storage.store_folder.FileLock", None)
    assert folder.change(lambda note: note.update(NOTE)) == NOTE


def test_a_file_system_without_locks_is_told_and_used(tmp_path, monkeypatch, caplog):
    class NoLock:
        def __init__(self, path):
            pass

        def acquire(self):
            raise NotImplementedError

        def release(self):
            pass

    monkeypatch.setattr("kdengine.storage.store_folder.FileLock", NoLock)
    StoreFolder(tmp_path).change(lambda note: note.update(NOTE))
    assert StoreFolder(tmp_path).note() == NOTE
    assert "has no locks" in caplog.text
