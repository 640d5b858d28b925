import json

import pytest

from kdengine.report.leaderboard import Leaderboard
from kdengine.report.page import Page
from kdengine.report.pastrun import find_runs
from kdengine.report.pictures import leave_pictures
from kdengine.report.tradeoff import Tradeoff, draw_tradeoff

TIMES = {"slow": 8.0, "quick": 0.5}
MACHINE = {"device_name": "a machine", "device": "cpu", "threads": 2, "precision": "fp32", "torch": "2", "rounds": 3}


def cost(taken):
    return {"flops": 1e6, "peak_bytes": {"1": 1}, "latency_ms": {"1": {"median": taken, "low": taken, "high": taken}}}


@pytest.fixture
def family(run_folder, tmp_path):
    """Two students with two lanes each; the quick one comes last by its name and is not the smaller one."""
    for label, taken in TIMES.items():
        for lane, score in (("plain", 40.0), ("st", 50.0)):
            folder = run_folder(f"out/trial-1/{label}/{lane}", (score + taken,), lane, student=label)
        content = {**MACHINE, "batches": [1], "student": cost(taken), "teacher": cost(20.0)}
        (folder / "benchmark.json").write_text(json.dumps(content))
    (tmp_path / "out" / "comparison.json").write_text("{}")
    return tmp_path / "out"


def test_every_method_is_a_line_from_the_quickest_student_to_the_slowest_and_the_plain_one_is_first(family):
    tradeoff = Tradeoff.of(Leaderboard.of([family]))
    assert list(tradeoff.lines) == ["plain", "st"]
    assert [(point.student, point.latency, point.score) for point in tradeoff.lines["st"]] == [
        ("quick", 0.5, 50.5),
        ("slow", 8.0, 58.0),
    ]


def test_the_axes_hold_all_networks_and_the_teacher_is_a_line_with_its_latency(family):
    (axes,) = draw_tradeoff([family]).axes
    assert axes.get_xscale() == "log"
    low, high = axes.get_xlim()
    assert low < 0.5 < 20.0 < high
    teacher = next(line for line in axes.lines if line.get_gid() == "teacher")
    assert (list(teacher.get_xdata()), list(teacher.get_ydata())) == ([20.0], [70.0])
    methods = [line for line in axes.lines if str(line.get_gid()).startswith("method-")]
    assert [list(line.get_xdata()) for line in methods] == [[0.5, 8.0], [0.5, 8.0]]
    markers = {str(line.get_marker()) for line in axes.lines if len(line.get_xdata()) == 1 and line is not teacher}
    assert len(markers) == len(TIMES)


def test_it_stands_on_the_page_and_in_the_folder_and_without_a_latency_nowhere(family):
    leave_pictures(family)
    assert (family / "tradeoff.png").read_bytes().startswith(b"\x89PNG")
    page = (family / "report.html").read_text(encoding="utf-8")
    assert "Last test top-1 over latency" in page
    assert 'id="tradeoff-method-1"' in page
    for file in family.rglob("benchmark.json"):
        file.unlink()
    assert draw_tradeoff([family]) is None
    assert Page(find_runs([family]), []).tradeoff_section() == ""


def test_one_student_and_runs_of_no_comparison_have_no_such_picture(run_folder, tmp_path):
    one = run_folder("one/trial-1/st")
    (tmp_path / "one" / "comparison.json").write_text("{}")
    assert draw_tradeoff([tmp_path / "one"]) is None
    assert draw_tradeoff([one]) is None
    assert Page(find_runs([tmp_path / "one"]), []).tradeoff_section() == ""
