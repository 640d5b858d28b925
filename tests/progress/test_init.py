import pytest

from kdengine import Comparison, Engine
from kdengine.progress import with_progress
from kdengine.progress.bar import ProgressBar
from kdengine.progress.lanes import LanesProgress
from kdengine.runs.assignment import assign

SMALL = {"data": "digits@train=16@test=16", "epochs": 1, "precision": "fp32", "device": "cpu", "batch_size": 8}


@pytest.mark.parametrize(
    ("progress", "terminal", "kinds"),
    [
        (None, False, []),
        (None, True, [ProgressBar]),
        (True, False, [ProgressBar]),
        (False, True, []),
    ],
)
def test_by_default_progress_is_shown_where_somebody_watches(progress, terminal, kinds, monkeypatch):
    monkeypatch.setattr("kdengine.progress.screen.is_watched", lambda: terminal)
    assignment = assign(None, "resnet8", (), None, observers=["mine"])
    watched = with_progress(assignment, progress)
    assert [type(observer) for observer in watched.observers[:-1]] == kinds
    assert watched.observers[-1] == "mine"
    assert type(with_progress(assignment, True, many=True).observers[0]) is LanesProgress


def test_nothing_is_printed_when_standard_error_is_a_pipe_unless_asked_for(tmp_path, capfd):
    Engine(None, "resnet8", out=tmp_path / "a", **SMALL).fit()
    out, err = capfd.readouterr()
    assert out == ""
    assert "epoch 1/1" not in err, "the log of kdengine may be shown, if a test before this one has asked for it"
    Engine(None, "resnet8", out=tmp_path / "b", **SMALL).fit(progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "epoch 1/1" in err
    Comparison("resnet14", "resnet8", {}, out=tmp_path / "c", **SMALL).fit(progress=True)
    assert "trial-1 plain: epoch 1/1" in capfd.readouterr().err
