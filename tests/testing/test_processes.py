import threading

import pytest
import torch

from kdengine.testing import in_processes


def test_an_exchange_that_not_all_take_part_in_fails_in_place_of_waiting_forever():
    def act(rank, processes):
        return processes.stacked(torch.tensor(rank)) if rank else None

    with pytest.raises(threading.BrokenBarrierError):
        in_processes(2, act, patience=0.2)


def test_the_error_of_one_is_told_and_not_that_another_waited_for_it():
    def act(rank, processes):
        if rank:
            raise ValueError("no")
        return processes.stacked(torch.tensor(rank))

    with pytest.raises(ValueError, match="no"):
        in_processes(2, act)
