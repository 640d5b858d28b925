import math

import pytest

from kdengine.report.leaderboard import MEANINGLESS, Leaderboard
from kdengine.storage.chance import Chance

CHANCE = Chance(10.0, math.log(10))


@pytest.fixture
def board(run_folder, tmp_path):
    """The leaderboard of lanes with given scores, one for each trial; the teacher of the hand-made runs has 70 %."""

    def make(chance=CHANCE, losses=None, **scores):
        for label, values in scores.items():
            for seed, score in enumerate(values):
                loss = (losses or {}).get(label, 2.0)
                run_folder(f"t/trial-{seed}/{label}", [score], method=label, seed=seed, chance=chance, loss=loss)
        return Leaderboard.of([tmp_path / "t"])

    return make


def notes(board):
    return {row["method"]: row["warning"] for row in board.rows}


def gains(board):
    return {row[0]: row[4] for row in board.table().rows}


def test_a_plain_student_far_behind_the_best_method_is_no_baseline(board):
    found = board(plain=[16.0, 31.6], st=[20.0, 40.0], at=[69.0, 70.0])
    (warning,) = found.warnings
    assert warning == (
        "The plain student is no baseline, top-1 23.80 % against 69.50 % of at, the best method: gains over it mean nothing; "
        "lower train.lr for all lanes, or let --tune-lr choose it."
    )
    assert notes(found) == {"plain": "no baseline: gains mean nothing", "st": "", "at": ""}
    assert gains(found)["at"].startswith("+45.70 [")
    assert gains(found)["at"].endswith(MEANINGLESS)
    assert gains(found)["plain"] == ""
    assert MEANINGLESS not in found.table().to_csv()
    assert "no baseline: gains mean nothing" in found.table().to_csv()


@pytest.mark.parametrize(("plain", "best", "chance", "broken"), [(49.0, 86.4, 10.0, True), (32.3, 44.3, 1.0, False)])
def test_a_baseline_has_at_least_six_tenths_of_the_lead_of_the_best_method(board, plain, best, chance, broken):
    found = board(chance=Chance(chance, 3.0), plain=[plain], fsp=[best], rkd=[plain - 3])
    assert found.verdict.no_baseline is broken


def test_a_plain_student_near_chance_in_one_trial_is_no_baseline_either(board):
    found = board(plain=[12.0, 68.0], st=[60.0, 69.0])
    assert "near chance in 1 of 2 trials with top-1 40.00 % where guessing gives 10.00 %" in found.warnings[0]
    assert notes(found)["plain"] == "no baseline: gains mean nothing, near chance in 1 of 2 trials"
    assert gains(found)["st"].endswith(MEANINGLESS)


def test_nor_is_one_that_is_an_outlier_below_methods_that_agree(board):
    found = board(plain=[50.0], st=[68.0], at=[69.0], rkd=[70.0])
    assert "top-1 50.00 % against 68.00 % of st, the worst method" in found.warnings[0]


@pytest.mark.parametrize(
    "scores",
    [
        {"plain": [66.0], "st": [68.0], "at": [68.1], "rkd": [68.2]},  # far below by their spread, but they merely help
        {"plain": [50.0], "st": [56.0], "at": [69.0], "rkd": [64.0]},  # below, but they do not agree
        {"plain": [50.0], "st": [69.0]},
        {"plain": [32.0, 34.0], "fsp": [44.0, 46.0], "at": [29.0, 30.0]},
        {"plain": [60.0]},
        {"st": [60.0]},
    ],
)
def test_a_baseline_that_methods_merely_beat_is_one(board, scores):
    found = board(**scores)
    assert found.warnings == ()
    assert set(notes(found).values()) == {""}
    assert MEANINGLESS not in str(found)


def test_without_known_chance_no_baseline_is_judged(board):
    assert board(chance=None, plain=[5.0], st=[69.0]).warnings == ()


def test_methods_near_chance_and_exploded_losses_are_told_by_name(board):
    found = board(plain=[60.0, 60.0], st=[9.0, 62.0], rkd=[11.0, 12.0], losses={"rkd": 6.7e5})
    near, loss = found.warnings
    assert near.startswith("Some lanes learned little, rkd near chance (11.50 %), st near chance in 1 of 2 trials (35.50 %), ")
    assert loss.startswith("The task loss exploded, rkd (6.7e+05 in epoch 1), where guessing has 2.3: lower train.lr")
    assert notes(found) == {
        "plain": "",
        "st": "near chance in 1 of 2 trials",
        "rkd": "near chance, task loss 6.7e+05 in epoch 1",
    }
    assert all("(!)" not in gain for gain in gains(found).values())


def test_a_teacher_behind_the_plain_student_is_told_in_its_own_row(board):
    found = board(plain=[90.0], st=[91.0])
    assert found.warnings[0].startswith("The teacher is behind the plain student, top-1 70.00 % against 90.00 %: train it")
    assert found.table().rows[0][-1] == "behind the plain student"
    assert found.table().sheet.rows[0][-1] == "behind the plain student"


def test_lanes_that_failed_are_not_judged(run_folder, board, tmp_path):
    run_folder("t/trial-1/rkd", [10.0], method="rkd", chance=CHANCE, failed="nan")
    assert board(plain=[60.0], st=[61.0]).warnings == ()
