import logging

import pytest

from kdengine import Engine
from kdengine.config.settings import Settings
from kdengine.runs.remarks import remark_on, remarks


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"methods": ["rkd", "st", "rkd"], "teacher": "resnet32"}, ["rkd is selected 2 times"]),
        ({"teacher": "timm:resnet8"}, ["Teacher and student are the same network, resnet8"]),
        ({"teacher": "resnet32", "methods": ["st", "rkd"]}, []),
    ],
)
def test_what_may_be_a_mistake_is_said_and_nothing_else(values, said):
    found = list(remarks(Settings.checked({"student": "resnet8", **values})))
    assert len(found) == len(said)
    assert all(piece in text for piece, text in zip(said, found, strict=True))


def test_modules_are_not_compared_by_name():
    assert not list(remarks(Settings(student="module:ResNet", teacher="module:ResNet")))


def test_a_busy_machine_is_said_with_the_remedy_on_a_cpu_only(monkeypatch, caplog):
    monkeypatch.setattr("kdengine.runs.remarks.busy_machine", lambda threads: 5)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with caplog.at_level(logging.INFO, "kdengine"):
        remark_on(Settings(student="resnet8"), "cuda")
        assert not caplog.records
        remark_on(Settings(student="resnet8"), "cpu")
    assert "5 other threads are running" in caplog.text
    assert "OMP_NUM_THREADS=1" in caplog.text


def test_a_run_is_remarked_on_when_it_is_planned(caplog):
    with caplog.at_level(logging.INFO, "kdengine"):
        Engine("resnet8", "resnet8", ["st"], "digits@train=32@test=32", device="cpu").session()
    assert "Teacher and student are the same network, resnet8" in caplog.text
