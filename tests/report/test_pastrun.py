import json

import pytest

from kdengine import SettingsError, StorageError
from kdengine.report.pastrun import FAILED, FINISHED, PastRun, find_runs, natural
from kdengine.storage.scores import CLASSIFICATION


def test_a_run_is_finished_failed_or_unfinished(run_folder):
    runs = find_runs([run_folder("a"), run_folder("b", failed="nan\nin  st.term"), run_folder("c", finished=False)])
    assert [run.state for run in runs] == ["finished", "failed", "unfinished"]
    assert [run.news for run in runs] == ["finished", "failed: nan in st.term", "unfinished"]
    assert [run.student["epochs"] for run in runs] == [2, 2, 2]


def test_what_was_measured_of_a_run_that_did_not_end_is_told(run_folder):
    run = PastRun.read(run_folder("a", [30.0, 50.0, 40.0], hint=2, finished=False))
    student = run.student
    assert (student["name"], student["top1"], student["best_top1"], student["top5"]) == ("resnet8", 40.0, 50.0, 60.0)
    assert student["epochs"] == 5
    assert run.teacher is None


def test_a_run_that_was_killed_at_once_is_still_a_run(run_folder):
    folder = run_folder("a", finished=False)
    (folder / "metrics.jsonl").unlink()
    (folder / "manifest.json").unlink()
    run = PastRun.read(folder)
    assert (run.method, run.student["top1"], run.data["name"], run.manifest) == ("st", None, "digits", {})


def test_a_lane_of_a_comparison_is_called_as_its_folder_before_its_first_epoch(run_folder, tmp_path):
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "comparison.json").write_text("{}")
    lane = run_folder("all/trial-1/hot", [], finished=False)
    assert PastRun.read(lane).method == "hot"
    assert PastRun.read(lane).comparison == tmp_path / "all"
    assert PastRun.read(run_folder("alone")).comparison is None


def test_rows_of_networks_on_the_way_are_not_the_students(run_folder):
    folder = run_folder("a", [20.0, 30.0], method="takd", finished=False)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rows[0] |= {"chain_step": 1, "network": "resnet20"}
    rows[1] |= {"chain_step": 2, "network": "resnet8"}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [row["epoch"] for row in PastRun.read(folder).student_rows] == [2]
    assert PastRun.read(folder).student["best_top1"] == 30.0
    result = {"method": "takd", "assistants": [{}], "student": {}}
    (folder / "result.json").write_text(json.dumps(result))
    assert [row["epoch"] for row in PastRun.read(folder).student_rows] == [2]


def test_every_run_below_a_folder_is_found_once_and_in_natural_order(run_folder, tmp_path):
    for name in ("all/trial-10/st", "all/trial-2/st", "all/trial-2/at", "other"):
        run_folder(name)
    found = find_runs([tmp_path / "all", tmp_path / "all" / "trial-2", tmp_path / "other"])
    names = [str(run.folder.relative_to(tmp_path)) for run in found]
    assert names == ["all/trial-2/at", "all/trial-2/st", "all/trial-10/st", "other"]
    assert natural("trial-2") < natural("trial-10") < natural("trial-x")


def test_a_folder_without_a_run_is_told(tmp_path):
    with pytest.raises(SettingsError, match="holds no run"):
        find_runs([tmp_path])
    with pytest.raises(SettingsError, match="There is no folder"):
        find_runs([tmp_path / "missing"])


@pytest.mark.parametrize("file", ["result.json", "metrics.jsonl"])
def test_a_damaged_run_does_not_hide_the_others(run_folder, file):
    whole, hurt = run_folder("a"), run_folder("b")
    (hurt / file).write_text('{"x')
    one, other = find_runs([whole, hurt])
    assert (one.state, other.state) == (FINISHED, FAILED)
    assert f"{file}' is damaged" in other.news
    assert other.data == one.data
    with pytest.raises(StorageError, match="is damaged"):
        find_runs([hurt])


def test_settings_that_cannot_be_read_name_their_file(run_folder):
    folder = run_folder("a")
    (folder / "run.toml").write_text('student = "resnet8"\nstudnet = 1\n')
    with pytest.raises(SettingsError) as caught:
        find_runs([folder])
    assert str(folder / "run.toml") in caught.value.__notes__[0]


def test_the_task_of_a_run_is_read_from_its_result_or_else_its_manifest(run_folder, depth):
    finished, unfinished = run_folder("a", task=depth), run_folder("b", [0.5, 0.25, 0.375], task=depth, finished=False)
    assert [PastRun.read(folder).scoring for folder in (finished, unfinished)] == [depth, depth]
    assert PastRun.read(run_folder("c")).scoring == CLASSIFICATION, "a folder that names no task is one of classification"
    student = PastRun.read(unfinished).student
    assert (student["rmse"], student["best_rmse"], student["best_epoch"], student["within"]) == (0.375, 0.25, 2, 20.375)


@pytest.mark.parametrize("task", [{}, {"name": "x"}, {"name": "x", "measures": []}, {"name": "x", "measures": [{"a": 1}]}, "x"])
def test_a_damaged_task_names_its_folder(run_folder, task):
    folder = run_folder("a")
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps({**result, "task": task}))
    with pytest.raises(StorageError, match="'task' is damaged") as caught:
        PastRun.read(folder).scoring  # noqa: B018
    assert str(folder) in caught.value.__notes__[0]
