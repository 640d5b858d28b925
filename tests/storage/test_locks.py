import subprocess
import sys

import pytest

from kdengine import SettingsError, StorageError
from kdengine.storage.locks import FolderLock

HOLD = "import sys, time; from pathlib import Path; from kdengine.storage.locks import FolderLock; "
HOLD += "lock = FolderLock(Path(sys.argv[1])); lock.take(); print('taken', flush=True); time.sleep(60)"


def test_only_one_has_a_folder_at_a_time(tmp_path):
    one, other = FolderLock(tmp_path / "run"), FolderLock(tmp_path / "run")
    one.take()
    one.take()
    with pytest.raises(SettingsError, match=r"run' is in use: another process is training into it. Wait for it, or"):
        other.take()
    one.free()
    other.take()


def test_a_killed_process_has_it_no_more(tmp_path):
    with subprocess.Popen([sys.executable, "-W", "ignore", "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"taken\n"
        with pytest.raises(SettingsError, match="in use"):
            FolderLock(tmp_path).take()
        process.kill()
    FolderLock(tmp_path).take()


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match=r"cannot be written to: Not a directory. Choose another --out"):
        FolderLock(tmp_path / "file" / "run").take()
