import pytest

from kdengine.config.factories import OwnSchedule


class Counter:
    """A scheduler that counts."""

    def __init__(self):
        self.calls = 0

    def step(self):
        self.calls += 1


@pytest.mark.parametrize(("every", "done", "calls"), [(1, 7, 7), (2, 4, 2), (2, 5, 3), (2, 7, 4), (2, 10, 6)])
def test_a_scheduler_is_stepped_once_for_each_update_also_for_a_shorter_one_at_the_end_of_an_epoch(every, done, calls):
    schedule = OwnSchedule(Counter(), every, steps=5)
    for step in range(done + 1):
        schedule.step_update(step)
    assert schedule.scheduler.calls == calls
    resumed = OwnSchedule(Counter(), every, steps=5)
    resumed.load_state_dict(schedule.state_dict())
    resumed.step_update(done)
    assert resumed.scheduler.calls == 0, "what was done before is not repeated"
