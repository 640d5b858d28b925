import csv
import io

import pytest

from kdengine import SettingsError
from kdengine.config.settings import Settings
from kdengine.report.table import results_table
from kdengine.storage.runfolder import RunFolder

TEACHER = {"name": "resnet32", "top1": 99.5, "best_top1": 99.75, "top5": 100.0, "parameters": 464154, "seconds": 61.2}


@pytest.fixture
def run(tmp_path):
    """Makes the folder of a finished run by hand."""

    def make(name, methods=("st",), teacher=TEACHER, seed=0, fingerprint="f", **student):
        place = RunFolder(tmp_path / name)
        facts = {"device_name": "a machine", "threads": 2, "precision": "fp32"}
        place.begin(Settings(student="resnet8", seed=seed), facts)
        numbers = {"top1": 90.123, "best_top1": 91.0, "top5": 99.0, "parameters": 78042, "seconds": 12.6, "epochs": 3}
        data = {"name": "digits", "fingerprint": fingerprint, "train_images": 1438, "test_images": 359}
        settings = {"seed": seed}
        result = {
            "method": "+".join(methods) or "plain",
            "methods": list(methods),
            "teacher": teacher,
            "student": {"name": "resnet8", **numbers, **student},
        }
        place.write_json("result.json", {**result, "data": data, "settings": settings})
        return place.path

    return make


def test_a_teacher_that_several_runs_share_stands_there_once(run):
    table = results_table([run("a"), run("b", methods=()), run("c", methods=("fitnet", "st"), seed=3)])
    assert [row[:3] for row in table.rows] == [
        ("resnet32", "teacher", ""),
        ("resnet8", "st", "0"),
        ("resnet8", "plain", "0"),
        ("resnet8", "fitnet+st", "3"),
    ]
    assert table.rows[0][3:] == ("", "99.50", "99.75", "100.00", "464,154", "61")
    assert table.rows[1][3:] == ("3", "90.12", "91.00", "99.00", "78,042", "13")


def test_the_caption_says_data_machine_and_versions(run):
    caption = results_table([run("a")]).caption
    for piece in (
        "digits: 1438 training and 359 test images",
        "a machine, 2 threads, fp32",
        "torch 2.",
        "timm 1.",
        "kdengine 0.",
    ):
        assert piece in caption


def test_every_format_holds_every_cell(run):
    table = results_table([run("a", teacher=None)])
    plain = [cell.replace("78,042", "78042") for cell in table.rows[0]]
    assert list(csv.reader(io.StringIO(table.to_csv()))) == [list(table.columns), plain]
    lines = table.to_markdown().splitlines()
    assert lines[0] == table.caption
    assert [cell.strip() for cell in lines[4].strip("|").split("|")] == list(table.rows[0])


def test_what_was_not_measured_stays_empty(run):
    table = results_table([run("a", teacher=None, top5=None, seconds=0)])
    assert (table.rows[0][6], table.rows[0][8]) == ("", "")


def test_different_data_are_refused_unless_that_is_asked_for(run):
    folders = [run("a"), run("b", fingerprint="g")]
    with pytest.raises(SettingsError, match="different data"):
        results_table(folders)
    assert len(results_table(folders, mixed=True).rows) == 3


def test_runs_trained_differently_are_refused_and_it_is_said_where(run_folder):
    folders = [run_folder("a"), run_folder("b", train={"epochs": 5})]
    with pytest.raises(SettingsError, match=r"different train\.epochs: 30 \(.*a\), 5 \(.*b\)"):
        results_table(folders)
    table = results_table(folders, mixed=True)
    assert [row[1] for row in table.rows] == ["teacher", "st", "st"]
    assert table.columns[-1] == "seconds"


def test_runs_that_failed_or_are_not_finished_are_rows_that_say_so(run_folder, tmp_path):
    run_folder("all/done", method="plain")
    run_folder("all/late", [20.0, 15.0], hint=1, finished=False)
    run_folder("all/lost", [], method="sp", failed="sp.term | nan")
    table = results_table([tmp_path / "all"])
    assert table.columns[-1] == "state"
    assert [row[1:6] + row[-1:] for row in table.rows] == [
        ("plain", "0", "2", "50.00", "50.00", "finished"),
        ("st", "0", "3", "15.00", "20.00", "unfinished"),
        ("sp", "0", "0", "", "", "failed: sp.term | nan"),
    ]
    assert table.to_markdown().splitlines()[-1].endswith(r"| failed: sp.term \| nan |")


def test_the_caption_names_every_machine_and_data_set_once(run_folder):
    folders = [run_folder("a"), run_folder("b"), run_folder("c", data="cifar10", fingerprint="g")]
    caption = results_table(folders, mixed=True).caption
    assert caption.startswith("digits: 1438 training and 359 test images / cifar10: 1438 training")
    assert caption.count("a machine") == 1


def test_a_run_that_was_killed_before_it_wrote_anything_is_a_row(run_folder):
    folder = run_folder("a", [], finished=False)
    (folder / "manifest.json").unlink()
    (row,) = results_table([folder]).rows
    assert (row[:4], row[-1]) == (("resnet8", "st", "0", "0"), "unfinished")


def test_another_task_has_its_own_columns_and_digits(run_folder, depth):
    table = results_table([run_folder("a", [0.25, 0.5], task=depth)])
    assert table.columns[4:7] == ("last RMSE", "best RMSE", "within 1.25 %")
    assert [row[4:7] for row in table.rows] == [("70.0000", "71.0000", "90.00"), ("0.5000", "0.2500", "20.50")]


def test_csv_has_no_thousands_separators_and_text_has_them(run_folder):
    table = results_table([run_folder("a")])
    rows = list(csv.DictReader(io.StringIO(table.to_csv())))
    assert [row["parameters"] for row in rows] == ["472756", "78042"]
    assert [row[table.columns.index("parameters")] for row in table.rows] == ["472,756", "78,042"]
    assert "| 78,042 |" in table.to_markdown()


def test_what_makes_the_numbers_of_a_run_mean_nothing_is_in_its_state_in_short(run_folder):
    good, bad = run_folder("good"), run_folder("bad", method="at", warnings=["The student is near chance: lower train.lr."])
    table = results_table([good, bad])
    assert [row[-1] for row in table.rows] == ["", "finished", "finished; The student is near chance"]
    assert results_table([good]).columns[-1] == "seconds"
