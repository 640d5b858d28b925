import csv
import io
import json

import pytest

from kdengine.report.differences import alike
from kdengine.report.family import FamilyBoard
from kdengine.report.grouped import joined, tables_of
from kdengine.report.leaderboard import Leaderboard
from kdengine.report.pastrun import find_runs
from kdengine.report.series import series_of

SCORES = {"small": {"plain": (40.0, 44.0), "st": (50.0, 52.0)}, "big": {"plain": (60.0, 62.0), "st": (61.0, 65.0)}}
PARAMETERS = {"small": 1000, "big": 78042}


def benchmark(student, teacher=None):
    """The content of ``benchmark.json``, with so many milliseconds for one image."""
    networks = {"student": student, "teacher": teacher}
    timed = {
        role: None
        if taken is None
        else {
            "name": role,
            "flops": 1e6,
            "peak_bytes": {"1": 1},
            "latency_ms": {"1": {"median": taken, "low": taken, "high": taken}},
        }
        for role, taken in networks.items()
    }
    machine = {"device_name": "a machine", "device": "cpu", "threads": 2, "precision": "fp32", "torch": "2", "rounds": 3}
    return {**machine, "batches": [1], **timed}


@pytest.fixture
def family(run_folder, tmp_path):
    """Two trials of two students and two lanes; the big one has a lane that failed, and one that ships another network."""
    for label, lanes in SCORES.items():
        for lane, scores in lanes.items():
            for trial, score in enumerate(scores, 1):
                folder = run_folder(f"out/trial-{trial}/{label}/{lane}", (10.0, score), lane, student=label, seed=trial)
                resize(folder, PARAMETERS[label])
        (tmp_path / "out" / "trial-1" / label / "st" / "benchmark.json").write_text(
            json.dumps(benchmark(1.0 if label == "small" else 2.5, 9.0))
        )
    run_folder("out/trial-1/big/rkd", (10.0,), "rkd", failed="too wide", student="big", seed=1)
    shipped = run_folder("out/trial-1/big/simkd", (10.0, 66.0), "simkd", student="big", seed=1)
    resize(shipped, 90000, deployed_by=["simkd"])
    (tmp_path / "out" / "comparison.json").write_text("{}")
    return tmp_path / "out"


def resize(folder, parameters, **more):
    result = json.loads((folder / "result.json").read_text())
    result["student"] |= {"parameters": parameters, "training_parameters": parameters, "flops": 1000 * parameters}
    (folder / "result.json").write_text(json.dumps({**result, **more}))


def test_every_student_is_a_board_of_its_own_the_smallest_first(family):
    board = Leaderboard.of([family])
    assert isinstance(board, FamilyBoard)
    assert list(board.students) == ["small", "big"]
    assert [row["student"] for row in board.rows] == ["small"] * 2 + ["big"] * 4
    gains = {(row["student"], row["method"]): row["gain"] for row in board.rows}
    assert gains == {
        ("small", "plain"): None,
        ("small", "st"): pytest.approx(9.0),
        ("big", "plain"): None,
        ("big", "st"): pytest.approx(2.0),
        ("big", "simkd"): pytest.approx(6.0),
        ("big", "rkd"): None,
    }
    alone = board.students["big"]
    assert {row["method"] for row in alone.rows} == {"plain", "st", "simkd", "rkd"}
    assert not alone.students
    assert "student" not in alone.rows[0]


def test_what_a_lane_ships_is_what_it_costs_and_what_was_not_measured_is_not_known(family):
    rows = {(row["student"], row["method"]): row for row in Leaderboard.of([family]).rows}
    found = {key: (row["parameters"], row["flops"], row["latency_ms"]) for key, row in rows.items()}
    assert found == {
        ("small", "plain"): (1000, 1_000_000, 1.0),
        ("small", "st"): (1000, 1_000_000, 1.0),
        ("big", "plain"): (78042, 78_042_000, 2.5),
        ("big", "st"): (78042, 78_042_000, 2.5),
        ("big", "simkd"): (90000, 90_000_000, None),
        ("big", "rkd"): (None, None, None),
    }


def test_the_table_has_students_sizes_and_the_teacher_and_csv_one_number_in_a_cell(family):
    (table,) = tables_of([family])
    assert table.columns[:7] == ("student", "parameters", "MFLOPs", "ms, batch 1", "method", "trials", "last top-1 %")
    lines = {(row[0], row[4]): row for row in table.rows}
    assert lines["teacher resnet32", ""][3:7] == ("9.00", "", "", "70.00")
    assert lines["big", "st"][:4] == ("big", "78,042", "78.0", "2.50")
    assert "too wide" in lines["big", "rkd"][-1]
    assert "Latency and memory: a machine" in table.caption
    sheet = list(csv.DictReader(io.StringIO(joined([table]).to_csv())))
    assert [row["parameters"] for row in sheet if row["student"] == "big"] == ["90000", "78042", "78042", ""]
    assert {len(row) for row in table.rows} == {len(table.columns)}
    assert {len(row) for row in table.sheet.rows} == {len(table.sheet.columns)}
    assert "| small | 1,000 | 1.0 | 1.00 | st | 2 |" in str(Leaderboard.of([family]))


def test_a_family_of_which_one_student_was_trained_so_far_is_one_already(family):
    board = Leaderboard.of([family / "trial-1" / "big"])
    assert list(board.students) == ["big"]
    assert {row["student"] for row in board.rows} == {"big"}
    assert board.columns[0] == "student"


def test_in_a_console_it_is_one_line_about_every_student(family):
    said = repr(Leaderboard.of([family]))
    assert said == (
        "Leaderboard(2 students; small: st 51.00 % (+9.00 over plain), big: simkd 66.00 % (+6.00 over plain); "
        "print() shows the table)"
    )


def test_warnings_name_the_student_that_they_are_about(run_folder, tmp_path):
    from kdengine.storage.chance import Chance

    for label, score in (("small", 11.0), ("big", 60.0)):
        for lane in ("plain", "st"):
            run_folder(f"out/trial-1/{label}/{lane}", (score,), lane, student=label, chance=Chance(10.0, 2.3))
    (tmp_path / "out" / "comparison.json").write_text("{}")
    board = Leaderboard.of([tmp_path / "out"])
    assert board.warnings
    assert all(warning.startswith("small: ") for warning in board.warnings)
    marks = {(row[0], row[4]): "(!)" in "".join(row) for row in board.table().rows}
    assert (marks["small", "st"], marks["big", "st"]) == (True, False)


def test_runs_know_their_student_and_lines_are_named_after_it(family, run_folder):
    runs = find_runs([family])
    assert {run.of_student for run in runs} == {"small", "big"}
    assert {run.comparison for run in runs} == {family.resolve()}
    assert {series.label for series in series_of(runs)} >= {"small plain", "big plain", "small st", "big simkd"}
    assert alike(runs) == [("", runs)]
    (lone,) = find_runs([run_folder("out/own/things/run")])
    assert (lone.comparison, lone.of_student) == (None, "")
