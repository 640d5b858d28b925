import csv
import io
import json

import pytest
from scipy import stats

from kdengine import SettingsError
from kdengine.config.settings import Settings
from kdengine.report.leaderboard import Leaderboard
from kdengine.report.paired import interval
from kdengine.storage.runfolder import RunFolder

TEACHER = {"name": "resnet32", "top1": 78.5, "best_top1": 79.0, "top5": 95.0, "parameters": 464154}


@pytest.fixture
def lane(tmp_path):
    """Makes the folder of one lane by hand: finished with an accuracy, failed with a reason, or neither."""

    def make(label, seed, top1=None, failed=None, extra=0, **student):
        place = RunFolder(tmp_path / f"trial-{seed + 1}" / label)
        data = {"name": "digits", "train_images": 1438, "test_images": 359}
        place.begin(
            Settings(student="resnet8", seed=seed), {"device_name": "cpu", "threads": 1, "precision": "fp32", "data": data}
        )
        row = {"lane": label, "epoch": 1, "seconds": 2.0, "test_top1": 10.0}
        place.write_text("metrics.jsonl", json.dumps(row) + "\n" + json.dumps({**row, "epoch": 2, "seconds": 4.0}) + "\n")
        if failed:
            place.write_json("failed.json", {"error": failed, "epoch": 2})
        if top1 is not None:
            facts = {"top1": top1, "best_top1": top1 + 1, "top5": 90.0, "epochs": 2, "parameters": 100, **student}
            result = {"method": label, "teacher": TEACHER if label != "plain" else None, "data": data}
            place.write_json("result.json", {**result, "student": {**facts, "training_parameters": 100 + extra}})
        return tmp_path

    return make


def test_means_spreads_and_paired_gains_are_those_of_the_trials(lane):
    plain, st = [70.0, 72.0, 71.0], [73.0, 72.5, 74.0]
    for seed in range(3):
        lane("plain", seed, plain[seed])
        place = lane("st", seed, st[seed], extra=50)
    board = Leaderboard.of([place])
    first, second = board.rows
    assert [first["method"], second["method"]] == ["st", "plain"]
    assert (first["top1"], first["best_top1"]) == (pytest.approx(73.1667, abs=1e-3), pytest.approx(74.1667, abs=1e-3))
    assert first["top1_std"] == pytest.approx(stats.tstd(st))
    gains = [one - other for one, other in zip(st, plain, strict=True)]
    expected = stats.ttest_rel(st, plain).confidence_interval(0.95)
    assert first["gain"] == pytest.approx(sum(gains) / 3)
    assert (first["gain_low"], first["gain_high"]) == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert (first["trials"], first["extra_parameters"], first["epochs"], first["seconds_per_epoch"]) == (3, 50, 2, 3.0)
    assert (second["gain"], second["gain_low"]) == (None, None)
    assert board.teacher["name"] == "resnet32"


def test_a_single_trial_has_no_interval_and_says_so(lane):
    lane("plain", 0, 70.0)
    table = Leaderboard.of([lane("st", 0, 72.0)]).table()
    assert "+2.00 (one trial: no interval)" in table.rows[1]
    assert interval([1.0]) == (None, None)


def test_what_failed_or_is_not_finished_stays_in_the_table_with_its_reason(lane):
    lane("plain", 0, 70.0)
    lane("svd", 0, failed="the loss is no longer finite")
    board = Leaderboard.of([lane("rkd", 0)])
    notes = {row["method"]: row["failure"] for row in board.rows}
    assert notes == {"plain": "", "svd": "the loss is no longer finite", "rkd": "not finished: 2 epochs done"}
    assert board.rows[0]["method"] == "plain"
    assert "the loss is no longer finite" in str(board)


def test_a_method_that_failed_in_one_trial_is_compared_in_the_others(lane):
    for seed in range(3):
        lane("plain", seed, 70.0 + seed)
    lane("svd", 0, failed="nan")
    lane("svd", 1, 73.0)
    row = next(row for row in Leaderboard.of([lane("svd", 2, 75.0)]).rows if row["method"] == "svd")
    assert (row["trials"], row["gain"], row["failure"]) == (2, pytest.approx(2.5), "nan")


def test_trials_are_paired_by_their_seed(lane):
    lane("plain", 0, 70.0)
    row = next(row for row in Leaderboard.of([lane("st", 1, 75.0)]).rows if row["method"] == "st")
    assert row["gain"] is None


def test_single_run_folders_can_be_given_too(lane, tmp_path):
    lane("plain", 0, 70.0)
    lane("st", 0, 72.0)
    board = Leaderboard.of([tmp_path / "trial-1" / "plain", tmp_path / "trial-1" / "st"])
    assert [row["method"] for row in board.rows] == ["st", "plain"]
    with pytest.raises(SettingsError, match="no folder"):
        Leaderboard.of([tmp_path / "nothing"])


def test_it_becomes_a_data_frame(lane):
    pandas = pytest.importorskip("pandas")
    frame = Leaderboard.of([lane("plain", 0, 70.0)]).to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert frame["top1"].tolist() == [70.0]


def test_where_a_low_score_is_better_the_lowest_is_first_and_gains_are_positive(run_folder, depth, tmp_path):
    for seed, (plain, st) in enumerate([(0.75, 0.5), (0.875, 0.5)]):
        run_folder(f"trial-{seed}/plain", [1.0, plain], method="plain", seed=seed, task=depth)
        run_folder(f"trial-{seed}/st", [0.25, st], seed=seed, task=depth)
    board = Leaderboard.of([tmp_path / "trial-0", tmp_path / "trial-1"])
    best, plain = board.rows
    assert (best["method"], best["rmse"], best["rmse_std"], best["best_rmse"], best["within"]) == ("st", 0.5, 0.0, 0.25, 20.5)
    assert (best["gain"], plain["rmse"]) == (pytest.approx(0.3125), pytest.approx(0.8125))
    assert best["gain_low"] < best["gain"] < best["gain_high"]
    table = board.table()
    assert table.columns[2:6] == ("last RMSE", "best RMSE", "gain over plain", "within 1.25 %")
    assert table.rows[0][:6] == ("teacher resnet32", "", "70.0000", "71.0000", "", "90.00")
    assert table.rows[1][2:4] == ("0.5000 ± 0.0000", "0.2500 ± 0.0000")
    assert table.rows[1][4].startswith("+0.3125 [-0.")
    assert not {"top1", "top5"} & set(best)


def test_csv_has_a_plain_number_in_every_cell(lane):
    for seed in range(2):
        lane("plain", seed, 70.0)
        place = lane("st", seed, 72.0 + seed, extra=12345)
    table = Leaderboard.of([place]).table()
    assert table.rows[1][2:4] == ("72.50 ± 0.71", "73.50 ± 0.71")
    assert "12,345" in table.rows[1]
    teacher, st, plain = csv.DictReader(io.StringIO(table.to_csv()))
    assert (teacher["method"], teacher["last top-1 %"], teacher["top-5 %"]) == ("teacher resnet32", "78.50", "95.00")
    assert (st["last top-1 %"], st["last top-1 % std"], st["best top-1 %"]) == ("72.50", "0.71", "73.50")
    assert (st["gain over plain"], st["gain low"], st["gain high"]) == ("+2.50", "-3.85", "+8.85")
    assert (st["extra parameters"], plain["gain over plain"], plain["epochs"]) == ("12345", "", "2")


def test_a_finished_lane_that_measured_nothing_has_no_score(lane):
    lane("plain", 0, 70.0)
    row = next(row for row in Leaderboard.of([lane("st", 0, 71.0, best_top1=None, top5=None)]).rows if row["method"] == "st")
    assert (row["best_top1"], row["top5"], row["gain"]) == (None, None, 1.0)


def test_in_a_console_it_is_one_short_line_and_in_a_notebook_a_table(run_folder, tmp_path):
    run_folder("plain", [20.0], method="plain")
    run_folder("st", [23.0])
    board = Leaderboard.of([tmp_path])
    assert repr(board) == "Leaderboard(2 methods, best st with top-1 23.00 % (+3.00 over plain); print() shows the table)"
    assert '<td class="text">st</td>' in board._repr_html_()
    assert "gain over plain" in board._repr_html_()
