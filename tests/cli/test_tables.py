from kdengine.cli.tables import print_result
from kdengine.storage.scores import Measure, Scoring

STUDENT = {"name": "resnet8", "parameters": 78042, "epochs": 3, "seconds": 12.6}


def test_a_result_is_printed_with_the_measures_of_its_task(capsys):
    depth = Scoring("depth", (Measure("rmse", "RMSE", higher_is_better=False), Measure("within", "within 1.25", "%")))
    student = {**STUDENT, "rmse": 0.5, "best_rmse": 0.25, "within": 91.0}
    print_result({"task": depth.to_dict(), "method": "st", "teacher": None, "student": student}, "runs/a")
    head, row, folder = capsys.readouterr().out.splitlines()
    assert "last RMSE  best RMSE  within 1.25 %" in head
    assert row.split() == ["student", "resnet8", "st", "78,042", "0.5000", "0.2500", "91.00", "3", "13"]
    assert folder == "Run folder: runs/a"


def test_a_result_that_names_no_task_is_one_of_classification(capsys):
    student = {**STUDENT, "top1": 90.0, "best_top1": 91.0, "top5": None}
    print_result({"method": "st", "teacher": {**student, "name": "resnet32"}, "student": student}, "runs/a")
    head, teacher, row, _ = capsys.readouterr().out.splitlines()
    assert "last top-1 %  best top-1 %  top-5 %" in head
    assert (teacher.split()[1], row.split()[4:6]) == ("resnet32", ["90.00", "91.00"])
