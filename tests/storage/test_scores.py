import pytest

from kdengine.storage.scores import CLASSIFICATION


def row(epoch, test, val=None):
    return {"epoch": epoch, "test_top1": test, "test_top5": 99.0 + epoch / 10, **({} if val is None else {"val_top1": val})}


HINT = {"epoch": 1, "phase": "hint"}


def test_the_best_epoch_is_that_of_the_best_test_accuracy_and_the_first_of_equals():
    found = CLASSIFICATION.score([HINT, row(2, 50.0), row(3, 70.0), row(4, 70.0), row(5, 60.0)])
    assert found == {"top1": 60.0, "best_top1": 70.0, "best_epoch": 3, "top5": 99.5}


def test_with_images_held_out_those_choose_and_the_test_images_are_only_reported():
    found = CLASSIFICATION.score([row(1, 50.0, 55.0), row(2, 70.0, 40.0), row(3, 60.0, 50.0)])
    assert (found["top1"], found["best_top1"], found["best_epoch"]) == (60.0, 50.0, 1)
    assert (found["val_top1"], found["best_val_top1"]) == (50.0, 55.0)


def test_a_network_that_was_never_measured_has_no_score():
    assert CLASSIFICATION.score([HINT]) == CLASSIFICATION.score([]) == {"top1": None, "best_top1": None}


@pytest.mark.parametrize(
    ("new", "before", "expected"),
    [
        (row(2, 60.0), [HINT], True),
        (row(2, 60.0), [row(1, 60.0)], False),
        (row(2, 60.0), [row(1, 59.0)], True),
        (row(2, 60.0, 1.0), [row(1, 59.0, 2.0)], False),
    ],
)
def test_only_a_better_epoch_is_the_best(new, before, expected):
    assert CLASSIFICATION.is_best(new, before) is expected
