import pytest

from kdengine.report.columns import axis_label, gain, in_words, number, other_measures, rank, score_columns, with_low_best
from kdengine.storage.scores import CLASSIFICATION, Measure, Scoring

RMSE, METRES = Measure("rmse", "RMSE", higher_is_better=False), Measure("far", "distance", "m", higher_is_better=False)
DEPTH = Scoring("depth", (RMSE, METRES, Measure("within", "within 1.25", "%")))


def test_the_columns_of_classification_are_top_1_and_top_5_without_the_loss():
    assert score_columns(CLASSIFICATION) == ("last top-1 %", "best top-1 %", "top-5 %")
    assert with_low_best(CLASSIFICATION) == ()


def test_another_task_has_its_own_columns():
    assert score_columns(DEPTH) == ("last RMSE", "best RMSE", "distance m", "within 1.25 %")
    assert with_low_best(DEPTH) == ("last RMSE", "best RMSE", "distance m")
    assert other_measures(DEPTH) == DEPTH.measures[1:]


@pytest.mark.parametrize(
    ("measure", "cell", "words", "label"),
    [
        (CLASSIFICATION.headline, "1.23", "top-1 in percent", "top-1, %"),
        (RMSE, "1.2346", "RMSE", "RMSE"),
        (METRES, "1.23", "distance in m", "distance, m"),
    ],
)
def test_a_measure_is_written_in_its_unit(measure, cell, words, label):
    assert (number(measure, 1.23456), in_words(measure), axis_label(measure)) == (cell, words, label)
    assert (number(measure, None), number(measure, None, nothing="-")) == ("", "-")


def test_a_gain_is_positive_and_the_best_score_is_first_in_either_direction():
    top1 = CLASSIFICATION.headline
    assert (gain(top1, 72.0, 70.0), gain(RMSE, 0.5, 0.75)) == (2.0, 0.25)
    assert sorted([None, 1.0, 0.0, 2.0], key=lambda score: rank(top1, score)) == [2.0, 1.0, 0.0, None]
    assert sorted([None, 1.0, 0.0, 2.0], key=lambda score: rank(RMSE, score)) == [0.0, 1.0, 2.0, None]
