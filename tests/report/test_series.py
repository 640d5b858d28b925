import json

import pytest

from kdengine.report.pastrun import find_runs
from kdengine.report.series import series_of


def labels(folders):
    return [series.label for series in series_of(find_runs(folders))]


def test_runs_that_differ_in_their_seed_are_one_line_with_a_mean_and_a_spread(run_folder):
    folders = [run_folder(str(seed), [10.0 * seed, 60.0], seed=seed) for seed in (1, 2, 3)]
    (series,) = series_of(find_runs(folders))
    curve = series.scores("test")
    assert curve.epochs == [1, 2]
    assert curve.mean == [20.0, 60.0]
    assert (curve.low, curve.high) == ([pytest.approx(10.0), 60.0], [pytest.approx(30.0), 60.0])
    assert (series.last, series.state, series.note) == (60.0, "finished", "")


def test_an_initial_phase_shifts_the_curve_to_where_it_is_measured(run_folder):
    (series,) = series_of(find_runs([run_folder("a", method="fitnet", hint=2)]))
    assert series.scores("test").epochs == [3, 4]
    assert series.phase_starts() == [3]
    terms = series.terms()
    assert list(terms) == ["fitnet.hint", "task", "fitnet.term"]
    assert (terms["fitnet.hint"].epochs, terms["task"].epochs) == ([1, 2], [3, 4])


def test_what_became_of_trials_is_noted(run_folder):
    folders = [run_folder("1", seed=1), run_folder("2", [30.0], seed=2, failed="nan"), run_folder("3", seed=3, finished=False)]
    (series,) = series_of(find_runs(folders))
    assert (series.state, series.note, series.failed) == ("failed", "1 of 3 failed, 1 of 3 unfinished", False)
    (alone,) = series_of(find_runs(folders[1:2]))
    assert (alone.note, alone.failed) == ("failed", True)


def test_the_same_method_with_other_options_is_another_line_that_says_so(run_folder):
    folders = [
        run_folder("a", options={"st": {"alpha": 0.1}}),
        run_folder("b", options={"st": {"alpha": 0.5}}),
        run_folder("c", method="at"),
    ]
    assert labels(folders) == ["st (alpha=0.1)", "st (alpha=0.5)", "at"]
    assert labels([run_folder("d"), run_folder("e", student="resnet14")]) == ["st (student=resnet8)", "st (student=resnet14)"]


def test_lines_that_cannot_be_told_apart_in_few_words_say_their_folders(run_folder):
    other = {"lr": 0.5, "momentum": 0.1, "decay": 0.2, "batch_size": 32}
    folders = [run_folder("a"), run_folder("b", train=other)]
    assert labels(folders) == [f"st ({folder})" for folder in folders]
    assert labels([run_folder("c"), run_folder("d", fingerprint="g")]) == ["st (images=f)", "st (images=g)"]


def test_the_plain_student_is_one_line_whatever_teacher_was_named(run_folder):
    runs = find_runs([run_folder("a", method="plain"), run_folder("b", method="plain", teacher="resnet32", seed=1)])
    assert [(series.label, series.role) for series in series_of(runs)] == [("plain", "plain")]


def test_a_teachers_own_training_is_not_a_plain_student(run_folder):
    runs = find_runs(
        [run_folder("t", method="plain", student="timm:resnet32"), run_folder("a"), run_folder("b", method="plain")]
    )
    found = [(series.label, series.role) for series in series_of(runs)]
    assert found == [("st", "method"), ("plain", "plain"), ("timm:resnet32 in training", "teacher")]


def test_lanes_of_a_comparison_are_lines_by_their_labels(run_folder, tmp_path):
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "comparison.json").write_text("{}")
    for trial in (1, 2):
        for label in ("hot", "cold"):
            run_folder(f"all/trial-{trial}/{label}", [], seed=trial, finished=False)
    assert sorted(labels([tmp_path / "all"])) == ["cold", "hot"]


def test_numbers_that_are_not_finite_are_left_out(run_folder):
    folder = run_folder("a", [10.0, 20.0], finished=False)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rows[1]["terms"]["task"] = float("nan")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (series,) = series_of(find_runs([folder]))
    assert series.terms()["task"].epochs == [1]
    assert series.last == 20.0


def test_a_run_without_an_epoch_has_empty_curves(run_folder):
    folder = run_folder("a", [], finished=False)
    (series,) = series_of(find_runs([folder]))
    assert (series.last, series.terms(), series.phase_starts(), series.note) == (None, {}, [], "unfinished")
