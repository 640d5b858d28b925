from types import SimpleNamespace

import pytest

from kdengine.dispatch.estimates import Estimate
from kdengine.dispatch.plan import balanced, fewest_parts, plan_units
from kdengine.launchers.local import LocalLauncher


def jobs(*labels, student=""):
    return [SimpleNamespace(spec=SimpleNamespace(label=label, student=student)) for label in labels]


class Known:
    """Estimates that are given."""

    def __init__(self, **costs):
        self.costs = costs

    def of(self, job):
        cost = self.costs.get(job.spec.label, 1.0)
        teaching = 0.0 if job.spec.label == "plain" else 0.5
        return Estimate(cost, teaching, memory=10, needs_teacher=job.spec.label != "plain")


def lanes_of(units):
    return {unit.name: unit.labels for unit in units}


def test_with_fewer_workers_than_trials_a_unit_is_a_trial():
    trials = {number: jobs("plain", "st") for number in (1, 2, 3)}
    units = plan_units(trials, LocalLauncher(workers=2), Known())
    assert lanes_of(units) == {f"trial-{number}": ["plain", "st"] for number in (1, 2, 3)}
    assert [unit.needs_teacher for unit in units] == [True] * 3
    assert units[0].memory == 20
    assert units[0].cost == 2.5


def test_with_more_workers_trials_are_split_into_parts_of_the_same_cost():
    trials = {1: jobs("plain", "st", "rkd", "takd", student="resnet8")}
    units = plan_units(trials, LocalLauncher(workers=2), Known(takd=3.0))
    assert lanes_of(units) == {
        "trial-1-part-2": ["resnet8/takd"],
        "trial-1-part-1": ["resnet8/plain", "resnet8/st", "resnet8/rkd"],
    }
    assert [unit.cost for unit in units] == [3.5, 3.5]


def test_the_user_may_limit_the_lanes_of_a_unit():
    units = plan_units({1: jobs("plain", "st", "rkd"), 2: jobs("rkd"), 3: []}, LocalLauncher(workers=1, lanes=2), Known())
    assert [(unit.name, len(unit.jobs)) for unit in units] == [("trial-1-part-1", 2), ("trial-1-part-2", 1), ("trial-2", 1)]


@pytest.mark.parametrize(
    ("lanes", "trials", "own", "teaching", "workers", "parts"),
    [
        (4, 1, 4.0, 0.0, 4, 4),
        (4, 1, 4.0, 0.0, 3, 2),  # a third part would not make the largest smaller
        (4, 1, 4.0, 100.0, 4, 4),  # the teacher runs at the same time in all parts
        (4, 3, 4.0, 1.0, 4, 1),  # a second round would cost more than idle workers
        (4, 2, 4.0, 0.0, 4, 2),
        (1, 1, 4.0, 1.0, 9, 1),
    ],
)
def test_the_number_of_parts_is_the_one_with_which_all_end_first(lanes, trials, own, teaching, workers, parts):
    assert fewest_parts(lanes, trials, own, teaching, lambda _: workers) == parts


def test_groups_are_balanced_and_none_is_empty():
    assert balanced([5.0, 1.0, 1.0, 3.0, 2.0], 2) == [[0, 1], [2, 3, 4]]
    assert balanced([0.0, 0.0, 0.0], 3) == [[0], [1], [2]]
    assert balanced([1.0], 4) == [[0]]
