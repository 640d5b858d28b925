import math

import pytest

from kdengine.runs.judging import exploded, in_short, judge_run, student_at_chance, teacher_at_chance, teacher_behind
from kdengine.storage.chance import Chance
from kdengine.storage.scores import CLASSIFICATION, Measure

TOP1 = CLASSIFICATION.headline
CHANCE = Chance(10.0, math.log(10))


def rows(*losses):
    hint = {"epoch": 1, "terms": {"fitnet.hint": 1e9}}
    return [hint, *({"epoch": epoch, "terms": {"task": loss}} for epoch, loss in enumerate(losses, 2))]


def test_a_student_and_a_teacher_at_chance_are_told_with_the_numbers_and_what_to_do():
    student = student_at_chance(11.5, "student", TOP1, CHANCE, 359)
    assert student == (
        "The student is near chance, top-1 11.50 % where guessing gives 10.00 %: lower train.lr, or train for more epochs."
    )
    assert "teacher_train.lr" in teacher_at_chance(9.0, TOP1, CHANCE, 359)
    assert in_short(student) == "The student is near chance, top-1 11.50 % where guessing gives 10.00 %"


@pytest.mark.parametrize(("score", "chance"), [(50.0, CHANCE), (None, CHANCE), (9.0, None)])
def test_what_learned_something_or_is_not_known_is_not(score, chance):
    assert student_at_chance(score, "student", TOP1, chance, 359) is None
    assert teacher_at_chance(score, TOP1, chance, 359) is None


@pytest.mark.parametrize(
    ("teacher", "student", "images", "behind"),
    [
        (70.0, 90.0, 359, True),
        (98.9, 99.2, 359, False),  # one image
        (98.9, 99.2, None, True),
        (90.0, 70.0, 359, False),
        (70.0, 70.0, None, False),
        (None, 70.0, 359, False),
        (70.0, None, 359, False),
    ],
)
def test_a_teacher_is_behind_its_student_by_more_than_the_test_images_can_tell(teacher, student, images, behind):
    warning = teacher_behind(teacher, student, "its student", TOP1, images)
    assert (warning is not None) is behind
    if behind:
        assert warning.startswith(f"The teacher is behind its student, top-1 {teacher:.2f} % against {student:.2f} %: ")


def test_where_low_is_better_the_higher_teacher_is_behind():
    rmse = Measure("rmse", "RMSE", higher_is_better=False)
    assert teacher_behind(0.5, 0.25, "its student", rmse, 100)
    assert teacher_behind(0.25, 0.5, "its student", rmse, 100) is None


@pytest.mark.parametrize(
    ("losses", "chance", "peak"),
    [
        ((6.7e5, 2.0), CHANCE, "6.7e+05 in epoch 2 (2.3 is that of guessing)"),
        ((2.0, None), CHANCE, "not finite in epoch 3"),
        ((2.0, math.nan), None, "not finite in epoch 3"),
        ((2.0, 21.0), None, "21 in epoch 3 (2 is that of the first epoch)"),
    ],
)
def test_a_task_loss_far_above_guessing_has_exploded(losses, chance, peak):
    assert peak in exploded(rows(*losses), chance)


@pytest.mark.parametrize(
    ("losses", "chance"), [((4.0, 22.0), CHANCE), ((2.0, 19.0), None), ((6.7e5, 2.0), None), ((), CHANCE), ((-1.0, 2.0), None)]
)
def test_a_task_loss_of_ordinary_size_has_not(losses, chance):
    assert exploded(rows(*losses), chance) is None


def test_a_run_is_judged_by_all_rules_and_a_good_one_passes():
    data = {"test_images": 359}
    bad = {"teacher": {"top1": 10.0}, "student": {"top1": 14.0}, "data": data}
    found = [in_short(warning).partition(",")[0] for warning in judge_run(bad, rows(99.0), CLASSIFICATION, CHANCE)]
    assert found == ["The teacher is near chance", "The student is near chance", "The task loss exploded"]
    good = {"teacher": {"top1": 97.0}, "student": {"top1": 95.0}, "data": data}
    assert judge_run(good, rows(2.0, 1.0), CLASSIFICATION, CHANCE) == ()
    alone = {"teacher": None, "student": {"top1": 10.0}, "data": data}
    assert judge_run(alone, rows(2.0), CLASSIFICATION, CHANCE)[0].startswith("The network is near chance")
    assert judge_run(alone, rows(2.0), CLASSIFICATION, None) == ()
