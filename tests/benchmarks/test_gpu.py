"""The benchmark for GPUs, tried on the CPU with a few steps."""

import warnings

import kdzoo  # noqa: F401  registers the small networks with timm
import pytest
import torch


@pytest.fixture
def gpu(script):
    return script("gpu")


def test_without_a_gpu_it_says_so_and_writes_nothing(gpu, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    gpu.main(["--out", str(tmp_path / "gpu.md")])
    assert "There is no GPU here" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_every_table_is_measured(gpu, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(gpu, "METHODS", (None, "at"))
    monkeypatch.setattr(gpu, "AUGMENT", ("none", "crop-flip"))
    monkeypatch.setattr(gpu, "COMPILED", ("at",))
    monkeypatch.setattr(gpu, "COMPILE", {"off": False, "on": True})
    monkeypatch.setattr("kdengine.training.compiling.BACKEND", "eager")
    gpu.main(["--device", "cpu", "--quick", "--out", str(tmp_path / "gpu.md")])
    text = capsys.readouterr().out
    rows = {}
    for section in text.split("\n## ")[1:]:
        title, _, table = section.partition("\n")
        rows[title] = [line.split("|")[1:-1] for line in table.splitlines() if line.startswith("| ")][2:]
        assert all(len(row) == len(rows[title][0]) for row in rows[title])
    assert {title: len(table) for title, table in rows.items()} == {
        "Beside a plain loop in the same precision": 2,
        "Memory layout": 1,
        "Waits for the device": 2,
        "Lanes": 1,
        "Augmentation": 1,
        "Compilation": 1,
    }
    for title, table in rows.items():
        if title != "Waits for the device":
            assert all(float(row[-1]) > 0 and float(row[-2]) > 0 for row in table)
    assert list(tmp_path.iterdir()) == []


def test_what_no_time_is_left_for_is_left_out(gpu, capsys):
    bench = gpu.Bench("cpu", ends=0.0)
    bench.table("Slow", ["a", "b"], iter([["1", "2"]]))
    assert "The time was up before the rest of this table." in capsys.readouterr().out
    assert not any("| 1 | 2 |" in line for line in bench.lines)


def test_waits_are_counted_by_the_line_that_waits(gpu):
    watch = gpu.Waits(gpu.Bench("cpu"))
    watch.begin()
    for _ in range(3):
        warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
    warnings.warn("something else", stacklevel=1)
    watch.end()
    (count,) = watch.places.values()
    assert count == 3
