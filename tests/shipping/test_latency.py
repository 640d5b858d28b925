import pytest

from kdengine.shipping import latency
from kdengine.shipping.latency import Latency, measured


class Machine:
    """A clock that calls move on: each by its seconds, and every one after ``slow_from`` by ten times as many."""

    def __init__(self, slow_from=float("inf")):
        self.now, self.slow_from, self.made = 0.0, slow_from, []

    def call(self, name, seconds):
        def run():
            self.made.append(name)
            self.now += seconds * (10 if len(self.made) > self.slow_from else 1)

        return run

    def clock(self):
        return self.now


def test_calls_take_turns_and_short_ones_are_repeated():
    machine = Machine()
    calls = [machine.call("quick", 0.02), machine.call("long", 0.3)]
    quick, long = measured(calls, rounds=4, clock=machine.clock)
    assert (quick.median, long.median) == (pytest.approx(20), pytest.approx(300))
    assert quick.low == pytest.approx(quick.high)
    warm_up = latency.WARM_UP + 1
    assert machine.made == ["quick"] * warm_up + ["long"] * warm_up + (["quick"] * 5 + ["long"]) * 4


def test_a_round_that_was_disturbed_moves_the_quartile_and_not_the_median():
    machine = Machine(slow_from=4 + 4 * 1)  # the last of five rounds of one call
    (found,) = measured([machine.call("one", 0.1)], rounds=5, clock=machine.clock)
    assert found.median == pytest.approx(100)
    assert Latency.of([0.1, 0.1, 0.1, 1.0, 1.0]).high == pytest.approx(1000)


def test_the_device_is_waited_for_within_what_is_timed():
    machine, queued = Machine(), []

    def wait():
        machine.now += 0.2 * len(queued)
        queued.clear()

    (found,) = measured([lambda: queued.append(1)], wait, rounds=2, clock=machine.clock)
    assert found.median == pytest.approx(200)
