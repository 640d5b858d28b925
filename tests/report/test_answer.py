"""What a comparison says in words: every sentence follows from the trials."""

import itertools
import json

import pytest
from scipy import stats

from kdengine.report.answer import COMBINATION, answer_of
from kdengine.report.leaderboard import Leaderboard
from kdengine.report.standing import Standing
from kdengine.report.wording import listed
from kdengine.storage.chance import Chance

PLAIN = [70.0, 71.0, 72.0]


@pytest.fixture
def board(run_folder, tmp_path):
    """The board of lanes with a score for each trial; None is one that failed, and an empty list one that is not finished."""
    numbers = itertools.count()

    def make(lanes, seconds=None, hint=None, student="", **facts):
        out = tmp_path / ("family" if student else f"out-{next(numbers)}")
        out.mkdir(exist_ok=True)
        (out / "comparison.json").write_text("{}")
        for label, scores in lanes.items():
            for seed, score in enumerate(scores):
                place = "/".join(filter(None, (out.name, f"trial-{seed + 1}", student, label)))
                state = {"failed": "nan"} if score is None else {"finished": False} if score == [] else {}
                measured = [] if score in (None, []) else [score]
                lane = {
                    "seconds": (seconds or {}).get(label, 2.0),
                    "hint": (hint or {}).get(label, 0),
                    "seed": seed,
                    **state,
                    **facts,
                }
                run_folder(place, measured, label, **({"student": student} if student else {}), **lane)
        return Leaderboard.of([out])

    return make


def test_a_clear_winner_with_its_interval_trials_and_cost(board):
    lanes = {"plain": PLAIN, "rkd": [73.0, 74.1, 75.2], "st": [71.0, 72.1, 73.0]}
    low, high = stats.ttest_rel(lanes["rkd"], PLAIN).confidence_interval(0.95)
    assert str(answer_of(board(lanes, seconds={"rkd": 2.5}))) == (
        "rkd is best of 2 methods: its top-1 is 3.10 points higher than the plain student's (95 % interval of the gain "
        f"+{low:.2f} to +{high:.2f}, 3 trials). It is ahead of every other method too. A training step of rkd takes 1.25 times "
        "as long as the plain student's."
    )


def test_of_a_chain_the_step_is_the_students_own_and_the_epochs_are_those_of_all_its_networks(board, tmp_path):
    chained = board({"plain": [70.0], "takd": [73.0]}, seconds={"takd": 3.0}, hint={"takd": 2})
    folder = chained.lanes["takd"][0].folder
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for row, number in zip(rows, (1, 1, 2), strict=True):
        row |= {"chain_step": number, "network": "resnet20" if number == 1 else "resnet8"}
        row["seconds"] = 100.0 if number == 1 else 3.0
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps({**result, "assistants": [{"name": "resnet20"}]}))
    again = Leaderboard.of([folder.parents[1]])
    assert again.rows[0]["seconds_per_epoch"] == 3.0
    assert str(answer_of(again)).endswith(
        "A training step of takd takes 1.50 times as long as the plain student's. It trains for 3 epochs, those of its "
        "assistants among them, the plain student for 1."
    )


def test_a_tie_is_called_one_by_the_paired_trials(board):
    lanes = {"plain": PLAIN, "rkd": [73.0, 74.1, 75.2], "st": [73.1, 73.9, 75.1], "at": [71.0, 72.1, 73.0]}
    answer = answer_of(board(lanes))
    assert answer.lead.startswith(
        "rkd has the best mean top-1 of 3 methods, 3.10 points higher than the plain student's (95 % interval of the gain +"
    )
    assert answer.further == (
        "These trials cannot tell it apart from st.",
        "A training step of rkd takes about as long as the plain student's.",
    )


def test_one_trial_says_nothing_of_how_sure_it_is(board):
    answer = answer_of(board({"plain": [70.0], "rkd": [72.0], "st": [72.0], "at": [71.0]}))
    assert answer.lead == (
        "In one trial, rkd has the best top-1 of 3 methods, 2.00 points higher than the plain student's: one trial cannot say "
        "how sure that is."
    )
    assert answer.further[:2] == ("st has the same top-1.", "Repeat with --trials 3, or more.")


def test_nothing_gains(board):
    answer = answer_of(board({"plain": PLAIN, "rkd": [69.0, 70.1, 70.9], "st": [65.0, 66.0, 67.5]}))
    assert answer.lead.startswith(
        "No method gains: the top-1 of rkd, the best of 2 methods, is 1.00 points lower than the plain student's (95 % "
        "interval of the gain \N{MINUS SIGN}"
    )
    assert "ahead" not in str(answer)
    one = answer_of(board({"plain": [70.0], "rkd": [70.0]}))
    assert one.lead == "No method gains: the top-1 of rkd, the only method, is equal to the plain student's (one trial)."
    one = answer_of(board({"plain": [70.0], "rkd": [69.0], "st": [None]}))
    assert "the top-1 of rkd, the only method that finished, is 1.00 points lower" in one.lead


def test_a_gain_whose_interval_includes_zero_is_no_gain(board):
    answer = answer_of(board({"plain": PLAIN, "rkd": [69.0, 73.0, 76.0]}))
    assert answer.lead.startswith(
        "No method is shown to beat the plain student: the top-1 of rkd, the only method, is 1.67 points higher than "
    )


def test_a_loss_whose_interval_includes_zero_is_no_loss_either(board):
    answer = answer_of(board({"plain": PLAIN, "rkd": [69.0, 71.5, 71.0]}))
    assert answer.lead.startswith(
        "No method is shown to beat the plain student: the top-1 of rkd, the only method, is 0.50 points lower than "
    )


def test_a_certain_gain_goes_before_a_higher_mean_that_may_be_chance(board):
    lanes = {"plain": PLAIN, "rkd": [60.0, 90.0, 80.0], "st": [72.0, 73.1, 74.0]}
    answer = answer_of(board(lanes))
    assert answer.lead.startswith("st gains: its top-1 is 2.03 points higher than the plain student's")
    assert answer.further[0].startswith("rkd has a better mean, but its gain may be none (95 % interval \N{MINUS SIGN}")
    assert answer.further[1] == "These trials cannot tell it apart from rkd."


def test_failed_and_unfinished_lanes_are_named_and_not_ranked(board):
    lanes = {"plain": PLAIN, "rkd": [73.0, 74.1, 75.2], "st": [99.0, None, 99.0], "at": [None] * 3, "sp": [[]] * 3}
    answer = answer_of(board(lanes))
    assert answer.lead.startswith("rkd helps: its top-1 is 3.10 points higher")
    assert answer.further[1:] == ("st failed in 1 of 3 trials and is not ranked.", "at failed.", "sp is not finished.")


def test_without_any_score_there_is_no_answer_yet(board):
    assert str(answer_of(board({"plain": [70.0], "rkd": [None], "st": [None]}))) == "Every method failed."
    assert str(answer_of(board({"plain": [70.0], "at": [[]]}))) == "No method has finished, so there is no answer yet."
    assert answer_of(Leaderboard.of_lanes(board({"plain": [70.0]}).lanes["plain"])) is None


def test_a_failed_plain_student_leaves_no_gain_to_tell(board):
    answer = answer_of(board({"plain": [None], "rkd": [73.0]}))
    assert answer.lead == (
        "rkd has the best top-1, 73.00 %. The plain student has no score in its trials, so no gain is known."
    )


def test_a_plain_student_that_is_no_baseline_is_said_before_anything_else(board):
    chance = Chance(10.0, 2.3)
    answer = answer_of(board({"plain": [10.0, 10.5], "rkd": [73.0, 74.0], "st": [60.0, 60.0]}, chance=chance))
    assert answer.lead == (
        "No gain can be told, because the plain student is no baseline. rkd has the best top-1 of 2 methods, 73.50 %."
    )


def test_a_longer_training_is_a_cost_too(board):
    answer = answer_of(board({"plain": PLAIN, "fitnet": [73.0, 74.1, 75.2]}, hint={"fitnet": 2}))
    assert "It trains for 3 epochs, the plain student for 1." in answer.further


def test_where_a_low_score_is_better_a_gain_is_a_lower_score(board, depth):
    answer = answer_of(board({"plain": [0.5, 0.6, 0.7], "rkd": [0.4, 0.51, 0.6], "st": [0.7, 0.8, 0.91]}, task=depth))
    assert answer.lead.startswith(
        "rkd is best of 2 methods: its RMSE is 0.0967 lower than the plain student's (95 % interval of"
    )
    assert "gain +0.08" in answer.lead


def test_a_family_has_the_best_pair_and_an_answer_for_every_student(board):
    board({"plain": PLAIN, "st": [72.0, 73.1, 74.0]}, student="small")
    answer = answer_of(board({"plain": [80.0] * 3, "st": [79.0, 78.8, 79.0]}, student="large"))
    assert answer.lead == "large without a method has the best top-1, 80.00 %, with 78,042 parameters."
    assert [label for label, _ in answer.students] == ["large", "small"]
    leads = {label: one.lead for label, one in answer.students}
    assert leads["small"].startswith("st helps: its top-1 is 2.03 points higher than the plain student's")
    assert leads["large"].startswith("No method gains: the top-1 of st, the only method, is 1.07 points lower than the plain")


def test_a_sweep_names_the_best_combination_and_what_it_was_chosen_on(board):
    cells = {"alpha=0.1": [71.0, 72.1, 73.0], "alpha=0.5": [73.0, 74.1, 75.2], "alpha=0.9": [73.1, 73.9, 75.1]}
    answer = answer_of(board({"plain": PLAIN, **cells}), COMBINATION)
    assert answer.lead.startswith("alpha=0.5 has the best mean top-1 of 3 combinations, 3.10 points higher than")
    assert answer.further[0] == "These trials cannot tell it apart from alpha=0.9."
    assert answer.further[-1] == "It was chosen by its score on the test images, so expect less of it on new ones."


def test_paired_trials_tell_apart_what_spreads_alone_do_not(board):
    lanes = {"plain": PLAIN, "rkd": [60.0, 75.0, 90.0], "st": [59.0, 73.9, 89.1]}
    standing = Standing(board(lanes))
    assert [one.label for one in standing.ranked] == ["rkd", "st"]
    assert standing.best.label == "rkd"
    assert standing.rivals == []


def test_a_long_list_of_names_is_cut_short():
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c", "d"]) == "a, b, c and d"
    assert listed(list("abcdefg")) == "a, b, c and 4 others"


def test_the_page_begins_with_it(board, tmp_path):
    from kdengine.report.page import write_page

    board({"plain": PLAIN, "a<b>": [73.0, 74.1, 75.2]})
    write_page(tmp_path / "page.html", [tmp_path / "out-0"])
    page = (tmp_path / "page.html").read_text()
    first = page[page.index("<h1>") : page.index("<h2>")]
    assert 'class="lead">a&lt;b&gt; helps: its <span class="whole">top-1</span> is 3.10 points higher' in first
    assert 'id="gains-gain-0"' in first
    assert "Whiskers: 95 % interval" in first
    for lane in ("plain", "a<b>"):
        write_page(tmp_path / "page.html", [tmp_path / "out-0" / "trial-1" / lane])
        assert 'class="lead"' not in (tmp_path / "page.html").read_text(), "a single run has nothing to compare"
