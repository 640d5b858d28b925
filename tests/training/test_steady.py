import pytest
import torch

from kdengine import DataError
from kdengine.data.batches import Batch
from kdengine.training.signals import Stop
from kdengine.training.steady import check_complete, steady


class Broken:
    """Four batches; the first time, whoever reads ahead is gone after two."""

    def __init__(self):
        self.begun = 0

    def __len__(self):
        return 4

    def epoch(self, number, start=0):
        self.begun += 1
        for place in range(start, 4):
            if self.begun == 1 and place == 2:
                raise DataError("A process that reads images has died")
            yield Batch(torch.zeros(1), torch.zeros(1), torch.tensor([place]))


@pytest.fixture
def shared():
    return Stop(peers=object())


def places(batches):
    return [int(batch.index) for batch in batches.epoch(0)]


def test_those_who_read_ahead_are_replaced_where_all_processes_are_about_to_stop(shared):
    shared.asked = True
    assert places(steady(Broken(), shared)) == [0, 1, 2, 3]


def test_they_are_not_where_nobody_was_asked_to_stop_or_this_process_is_alone(shared):
    alone = Stop()
    alone.asked = True
    for stop in (shared, alone):
        with pytest.raises(DataError, match="has died"):
            places(steady(Broken(), stop))


def test_too_few_batches_are_refused_only_where_others_would_wait(shared):
    check_complete(4, Broken(), shared)
    check_complete(3, Broken(), Stop())
    with pytest.raises(DataError, match="gave this process 3 batches, but announced 4"):
        check_complete(3, Broken(), shared)
