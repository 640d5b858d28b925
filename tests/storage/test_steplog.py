import json

import pytest

from kdengine.errors import StorageError
from kdengine.storage.steplog import StepLog


def rows(log):
    return [(row["epoch"], row["step"]) for row in map(json.loads, log.path.read_text().splitlines())]


@pytest.mark.parametrize(("epochs", "steps", "kept"), [(1, 2, 4), (1, 0, 2), (2, 0, 4), (0, 0, 0), (9, 9, 4)])
def test_steps_that_come_again_and_a_torn_row_are_dropped(epochs, steps, kept, tmp_path):
    log = StepLog(tmp_path / "steps.jsonl")
    every = [(1, 1), (1, 2), (2, 1), (2, 2)]
    for epoch, step in every:
        log.append({"epoch": epoch, "step": step, "terms": {"task": 0.5}})
    with log.path.open("a") as file:
        file.write('{"epoch": 2, "st')
    log.rewind(epochs, steps)
    assert rows(log) == every[:kept]
    log.append({"epoch": 3, "step": 1})
    assert rows(log)[-1] == (3, 1)


def test_without_a_file_there_is_nothing_to_rewind(tmp_path):
    StepLog(tmp_path / "steps.jsonl").rewind(0, 0)
    assert not (tmp_path / "steps.jsonl").exists()


def test_a_file_that_cannot_be_written_is_told(tmp_path):
    with pytest.raises(StorageError, match="Cannot write"):
        StepLog(tmp_path / "nowhere" / "steps.jsonl").append({"epoch": 1, "step": 1})
