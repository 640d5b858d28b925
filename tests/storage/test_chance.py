import pytest

from kdengine.storage.chance import Chance, deviation
from kdengine.storage.scores import CLASSIFICATION, Measure

TOP1 = CLASSIFICATION.headline
TEN, HUNDRED, TWO = Chance(10.0, 2.303), Chance(1.0, 4.605), Chance(50.0, 0.693)


@pytest.mark.parametrize(
    ("chance", "score", "images", "near"),
    [
        (TEN, 3.0, 10_000, True),
        (TEN, 14.2, 10_000, True),  # odds of 1.49 times those of guessing
        (TEN, 14.4, 10_000, False),
        (TEN, 14.4, 359, True),  # 2.8 standard deviations of 1.58
        (TEN, 15.0, 359, False),
        (TEN, 20.0, 64, True),
        (TEN, 14.4, None, False),
        (HUNDRED, 1.4, 10_000, True),
        (HUNDRED, 2.0, 10_000, False),
        (TWO, 59.0, 10_000, True),
        (TWO, 61.0, 10_000, False),
        (Chance(100.0, 0.1), 100.0, 50, True),
    ],
)
def test_a_score_is_near_chance_unless_it_beats_it_by_three_deviations_and_in_its_odds(chance, score, images, near):
    assert chance.is_near(score, TOP1, images) is near


def test_an_error_rate_counts_downwards_and_a_measure_that_is_no_share_has_no_margin():
    error, rmse = Measure("error", "error", "%", higher_is_better=False), Measure("rmse", "RMSE", higher_is_better=False)
    assert Chance(90.0, 2.3).is_near(86.0, error, 10_000)
    assert not Chance(90.0, 2.3).is_near(85.0, error, 10_000)
    assert Chance(1.5, 2.3).is_near(1.5, rmse, 100)
    assert not Chance(1.5, 2.3).is_near(1.4, rmse, 100)
    assert (Chance(1.5, 2.3).lead(0.5, rmse), TEN.lead(30.0, TOP1)) == (1.0, 20.0)


def test_the_deviation_is_that_of_a_binomial_share():
    assert deviation(TOP1, 20.0, 400) == pytest.approx(2.0)
    assert deviation(TOP1, 20.0, None) == deviation(CLASSIFICATION.measures[2], 2.0, 400) == 0.0


@pytest.mark.parametrize("stored", [None, {}, [], {"score": "10", "loss": 1.0}, {"score": 10.0}])
def test_what_is_missing_or_damaged_is_no_chance(stored):
    assert Chance.from_dict(stored) is None
    assert Chance.from_dict(TEN.to_dict()) == TEN
