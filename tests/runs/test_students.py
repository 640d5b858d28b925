import pytest
from torch import nn

from kdengine import SettingsError
from kdengine.config.settings import Settings
from kdengine.runs.lane_specs import LaneSpec
from kdengine.runs.students import StudentSpec, assign_students, lanes_of_all, name_of_all, student_specs


def settings(**more):
    return Settings.checked({"student": "a", "teacher": "t", **more})


def test_students_are_named_after_their_networks_and_told_apart_by_options_and_numbers():
    specs = student_specs(["timm:resnet8", "torchvision:resnet18", "vit@depth=1", "vit@depth=2", "a/b"], [None, "w.pth"])
    assert [spec.label for spec in specs] == ["resnet8", "resnet18", "vit@depth=1", "vit@depth=2", "a-b"]
    assert [spec.weights for spec in specs] == [None, "w.pth", None, None, None]
    assert [spec.role for spec in specs] == ["student", "student 2", "student 3", "student 4", "student 5"]
    twins = student_specs(["resnet8", "resnet8"], ["none", "w.pth"])
    assert [(spec.label, spec.weights) for spec in twins] == [("resnet8", None), ("resnet8-2", "w.pth")]
    assert [spec.label for spec in student_specs(["module:Net", "module:Net"])] == ["Net", "Net-2"]


def test_one_student_has_no_label_so_that_its_lanes_lie_where_they_always_did():
    (only,) = student_specs(["resnet8"])
    assert only == StudentSpec("resnet8")
    assert only.settings_in(settings(student="resnet8")) == settings(student="resnet8")
    assert name_of_all([only]) == "resnet8"
    assert name_of_all(student_specs(["resnet8", "b", "c"])) == "resnet8-and-2-more"


def test_the_settings_of_one_student_are_those_of_a_comparison_that_has_no_other():
    student = StudentSpec("b", "b", "w.pth", train={"lr": 0.5})
    mine = student.settings_in(settings(train={"lr": 0.1, "epochs": 3}))
    assert (mine.student, mine.student_weights, mine.train.lr, mine.train.epochs) == ("b", "w.pth", 0.5, 3)
    assert mine.teacher_training.lr == 0.1  # the teacher is one, whatever its students are trained with
    assert StudentSpec("b").with_train_of(mine, settings(train={"lr": 0.1, "epochs": 3})).train == {"lr": 0.5}


def test_every_student_gets_every_lane_but_those_of_another_one():
    students = student_specs(["a", "b"])
    lanes = lanes_of_all(students, [LaneSpec("st", ["st"]), LaneSpec("own", ["at"], student="b")])
    assert [(lane.student, lane.label) for lane in lanes] == [
        ("a", "plain"),
        ("a", "st"),
        ("b", "plain"),
        ("b", "st"),
        ("b", "own"),
    ]
    assert lanes_of_all(students, lanes) == lanes
    with pytest.raises(SettingsError, match="there is only one student"):
        lanes_of_all(student_specs(["a"]), [LaneSpec("own", ["at"], student="b")])


def test_modules_of_students_have_roles_of_their_own():
    one, two, teacher = nn.Linear(1, 1), nn.Conv2d(1, 1, 1), nn.Identity()
    assignment, students = assign_students(teacher, {"one": one, "named": "resnet8", "two": two}, None)
    assert dict(assignment.modules) == {"teacher": teacher, "student": one, "student 3": two}
    assert [student.network for student in students] == ["module:Linear", "resnet8", "module:Conv2d"]
    assert students[1].modules_in(assignment.modules) == {"teacher": teacher}
    assert students[2].modules_in(assignment.modules) == {"teacher": teacher, "student": two}
