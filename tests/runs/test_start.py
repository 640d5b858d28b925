from pathlib import Path
from types import SimpleNamespace

import pytest

from kdengine import SettingsError
from kdengine.runs.start import _check_processes
from kdengine.runs.whole_state import PARTS
from kdengine.storage.runfolder import RunFolder


@pytest.mark.parametrize(
    ("before", "now", "fix"),
    [(2, 1, "over 2: torchrun --nproc-per-node 2 -m kdengine run --resume run"), (1, 3, "without torchrun or srun")],
)
def test_an_epoch_is_not_continued_by_another_number_of_processes(before, now, fix):
    parts = {PARTS: [{"leaves": []}] * (before - 1)} if before > 1 else {}
    folder, runtime = RunFolder(Path("run")), SimpleNamespace(processes=now)
    with pytest.raises(SettingsError, match=f"cannot change to {now} now. Resume it {fix}"):
        _check_processes(folder, runtime, {"meter": {"steps": 4}, **parts})
    _check_processes(folder, runtime, {"meter": {"steps": 0}, **parts})
    _check_processes(folder, SimpleNamespace(processes=before), {"meter": {"steps": 4}, **parts})
