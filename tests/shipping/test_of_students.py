import json
import logging

from kdengine import ModelError
from kdengine.shipping.of_students import measure_students


def finished(folder, name="resnet8", **result):
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps({"student": {"name": name}, **result}))
    return folder


def test_one_lane_of_each_student_is_measured_and_every_one_that_ships_another_network(tmp_path, monkeypatch):
    calls = []

    def benchmark(folders, **named):
        calls.append((folders, named))
        for folder in folders:
            (folder / "benchmark.json").write_text("{}")

    monkeypatch.setattr("kdengine.shipping.of_students.benchmark", benchmark)
    finished(tmp_path / "a" / "plain")
    taught = finished(tmp_path / "a" / "st", teacher={"name": "t"})
    shipped = finished(tmp_path / "a" / "simkd", teacher={"name": "t"}, deployed_by=["simkd"])
    plain = finished(tmp_path / "b" / "plain")
    (tmp_path / "b" / "failed").mkdir()
    finished(tmp_path / "c" / "plain", "module:Net")
    measure_students(tmp_path, ["a", "b", "c"], "cpu")
    assert calls == [([taught, shipped, plain], {"batch": 1, "device": "cpu", "trust": True})]
    measure_students(tmp_path, ["a", "b", "c"], "cpu")
    assert len(calls) == 1


def test_what_cannot_be_measured_is_told_and_no_reason_to_fail(tmp_path, monkeypatch, caplog):
    def benchmark(*_, **__):
        raise ModelError("no such network")

    monkeypatch.setattr("kdengine.shipping.of_students.benchmark", benchmark)
    finished(tmp_path / "a" / "plain")
    with caplog.at_level(logging.WARNING):
        measure_students(tmp_path, ["a"], "cpu")
    assert "was not measured: no such network" in caplog.text
