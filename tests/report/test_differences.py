import pytest

from kdengine import SettingsError
from kdengine.report.curves import draw_curves
from kdengine.report.differences import (
    check_comparable,
    common_scoring,
    differing,
    flat,
    is_teacher_training,
    obstacles,
    same_network,
)
from kdengine.report.leaderboard import Leaderboard
from kdengine.report.pastrun import find_runs
from kdengine.report.table import results_table


def test_flat_and_differing_name_every_value_once():
    one = {"train": {"lr": 0.1, "epochs": 3}, "seed": 0}
    assert flat(one) == {"train.lr": 0.1, "train.epochs": 3, "seed": 0}
    assert differing([flat(one), {"train.lr": 0.2, "train.epochs": 3, "data": "x"}]) == ["train.lr", "seed", "data"]
    assert differing([flat(one)]) == []


def test_networks_of_the_zoo_are_timms_too():
    assert same_network("timm:resnet8", "resnet8")
    assert not same_network("resnet20", "resnet8")
    assert not same_network(None, None)


def test_runs_that_differ_in_method_seed_and_device_may_stand_in_one_table(run_folder):
    folders = [run_folder("a"), run_folder("b", method="plain", seed=3), run_folder("c", train={"device": "cpu", "workers": 0})]
    check_comparable(find_runs(folders))


def test_where_runs_differ_is_said(run_folder):
    folders = [run_folder(name, train={"lr": 0.1}) for name in "ab"]
    folders.append(run_folder("c", train={"lr": 0.05, "clip_grad": 1.0}))
    with pytest.raises(SettingsError) as caught:
        check_comparable(find_runs(folders))
    said = str(caught.value)
    assert f"different train.lr: 0.1 ({folders[0]} and 1 more), 0.05 ({folders[2]})" in said
    assert f"different train.clip_grad: not set ({folders[0]} and 1 more), 1.0 ({folders[2]})" in said
    assert "--mixed" in said


def test_different_images_under_one_name_are_told_apart(run_folder):
    (reason,) = obstacles(find_runs([run_folder("a"), run_folder("b", fingerprint="g")]))
    assert reason.startswith("different data: digits (f) (")
    (reason,) = obstacles(find_runs([run_folder("c"), run_folder("d", fingerprint="g", data="cifar10")]))
    assert reason.startswith("different data: digits (")


def test_what_is_not_known_of_a_run_is_no_difference_but_another_precision_is(run_folder):
    folders = [run_folder("a"), run_folder("b"), run_folder("c", finished=False)]
    (folders[2] / "manifest.json").unlink()
    assert obstacles(find_runs(folders)) == []
    manifest = folders[1] / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"fp32"', '"bf16"'))
    assert any(reason.startswith("different precision: fp32") for reason in obstacles(find_runs(folders[:2])))


def test_a_teacher_may_be_trained_otherwise(run_folder):
    teacher = run_folder("teacher", method="plain", student="timm:resnet32", train={"epochs": 90})
    runs = find_runs([teacher, run_folder("a"), run_folder("b", method="plain")])
    assert [is_teacher_training(run, runs) for run in runs] == [True, False, False]
    assert obstacles(runs) == []


def test_a_network_that_teaches_itself_is_no_mere_teacher(run_folder):
    runs = find_runs([run_folder("a", method="plain"), run_folder("b", teacher="resnet8")])
    assert not is_teacher_training(runs[0], runs)


def test_lanes_of_one_comparison_belong_together(run_folder, tmp_path):
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "comparison.json").write_text("{}")
    folders = [run_folder(f"sweep/trial-1/{lr}", train={"lr": lr}) for lr in (0.1, 0.2)]
    assert obstacles(find_runs(folders)) == []
    assert len(obstacles(find_runs([*folders, run_folder("alone", train={"lr": 0.3})]))) == 1


def test_students_that_received_other_images_differ_but_their_teachers_may(run_folder):
    folders = [run_folder("a"), run_folder("b", teacher_input={"size": 224})]
    check_comparable(find_runs(folders))
    (reason,) = obstacles(find_runs([*folders, run_folder("c", student_input={"size": 64})]))
    assert reason.startswith(f"different student_input.size: not set ({folders[0]} and 1 more), [64, 64] (")


def test_runs_of_different_tasks_share_no_table_and_no_plot_whatever_is_allowed(run_folder, depth):
    runs = find_runs([run_folder("a"), run_folder("b", task=depth, finished=False)])
    for refuse in (
        lambda: common_scoring(runs),
        lambda: results_table([run.folder for run in runs], mixed=True),
        lambda: Leaderboard.of([run.folder for run in runs]),
        lambda: draw_curves([run.folder for run in runs]),
    ):
        with pytest.raises(
            SettingsError, match=r"different tasks.*classification, measured by top-1 %.*a\), depth, .*RMSE.*b\)"
        ):
            refuse()


def test_a_run_that_was_killed_before_it_recorded_its_task_is_taken_for_one_of_the_others(run_folder, depth):
    killed = run_folder("b", [], task=depth, finished=False)
    (killed / "manifest.json").unlink()
    folders = [killed, run_folder("a", [0.5], task=depth)]
    assert common_scoring(find_runs(folders)) == depth
    assert [row[4] for row in results_table(folders).rows] == ["", "70.0000", "0.5000"]
