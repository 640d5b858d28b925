import logging

import pytest

import kdengine.report.curves
from kdengine import Engine
from kdengine.report.pictures import Pictures

FAST = {"precision": "fp32", "device": "cpu", "batch_size": 8}


@pytest.fixture
def fit(tmp_path):
    """A real run of one epoch, with its pictures."""

    def run():
        engine = Engine(
            student="resnet8", data="digits@train=8@test=16", epochs=1, out=tmp_path / "run", observers=[Pictures()], **FAST
        )
        engine.fit()
        return tmp_path / "run"

    return run


def test_a_finished_run_leaves_its_curves_and_its_report(fit):
    folder = fit()
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    page = (folder / "report.html").read_text()
    assert "<h1>resnet8 on digits" in page
    assert '<td class="number">78,042</td>' in page  # from the result, which is written before
    assert [file.name for file in folder.iterdir() if file.name.startswith(".")] == []


def test_a_run_does_not_fail_for_want_of_a_picture(fit, monkeypatch, caplog):
    def fail(folders):
        raise RuntimeError("no room")

    monkeypatch.setattr(kdengine.report.curves, "draw_curves", fail)
    monkeypatch.setattr(logging.getLogger("kdengine"), "propagate", True)  # the command line takes the log for itself
    with caplog.at_level(logging.WARNING, "kdengine"):
        folder = fit()
    assert (folder / "result.json").is_file()
    assert "could not be drawn: RuntimeError: no room" in caplog.text
    assert not (folder / "curves.png").exists()
