import json

import pytest

from kdengine import SettingsError, StorageError
from kdengine.runs.past_student import PastStudent


@pytest.fixture
def past(run_folder):
    """A finished run written by hand, with changes to its result; its weights are never reached."""

    def write(name, result=None, **settings):
        folder = run_folder(name, method="plain", **settings)
        if result is not None:
            facts = json.loads((folder / "result.json").read_text())
            (folder / "result.json").write_text(json.dumps({**facts, **result}))
        return folder

    return write


def refusal(folder, *arguments, **options):
    with pytest.raises((SettingsError, StorageError)) as caught:
        PastStudent.open(folder, *arguments, **options)
    return str(caught.value)


def test_a_student_that_cannot_be_rebuilt_is_refused_with_the_way_out(past, run_folder):
    assert "is not finished. Resume it" in refusal(run_folder("unfinished", finished=False))
    assert "was passed as a module" in refusal(past("module", student="module:Net"))
    assert "trained on loaders of your own. Name data that is loaded: --data SPEC" in refusal(past("loaders", data="loaders"))
    assert "does not record the size and the classes of its data" in refusal(past("old", {"data": {}}), images=False)


def test_a_moving_average_that_is_not_there_is_refused(past):
    assert "keeps no moving average: it was trained without train.ema" in refusal(past("plain"), "ema")
