import multiprocessing
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from kdengine.seeds import drawing_from, seeded, undisturbed


def drawn(seed):
    with seeded(seed):
        return torch.rand(3)


def test_the_seed_alone_decides_and_the_global_state_is_left_alone():
    state = torch.get_rng_state()
    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))
    with pytest.raises(ZeroDivisionError), seeded(3):
        torch.rand(1 // 0)
    assert torch.equal(torch.get_rng_state(), state)


def states():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


def drawn_from_all(seed):
    with drawing_from(seed):
        return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_transforms_draw_by_the_seed_from_whatever_state_they_use():
    before = states()
    assert drawn_from_all(1) == drawn_from_all(1)
    assert all(one != other for one, other in zip(drawn_from_all(1), drawn_from_all(2), strict=True))
    with pytest.raises(ZeroDivisionError), drawing_from(3):
        random.seed(1 // 0)
    assert states() == before


def slowly(seed):
    """Draws with pauses, in which other threads go on."""
    found = []
    with drawing_from(seed):
        for _ in range(20):
            time.sleep(0.0005)
            found.append((random.random(), float(np.random.rand()), float(torch.rand(()))))
    return found


def test_threads_draw_what_they_would_draw_alone_and_leave_the_global_states_as_they_were():
    alone, before = [slowly(seed) for seed in range(4)], states()
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(slowly, range(4))) == alone
    assert states() == before


def test_a_thread_that_has_its_turn_may_take_it_again():
    with undisturbed(), undisturbed():
        assert torch.equal(drawn(1), drawn(1))


def draw_and_leave():
    drawn_from_all(1)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # of forking beside threads, from Python 3.12 on
def test_a_process_forked_beside_a_drawing_thread_can_draw():
    entered, leave = threading.Event(), threading.Event()

    def hold():
        with undisturbed():
            entered.set()
            leave.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    entered.wait()
    threading.Timer(0.2, leave.set).start()
    child = multiprocessing.get_context("fork").Process(target=draw_and_leave, daemon=True)
    child.start()
    assert leave.is_set(), "a process is forked between two turns"
    child.join(20)
    holder.join()
    assert child.exitcode == 0
    with ThreadPoolExecutor(1) as other:
        assert other.submit(drawn_from_all, 1).result(20) == drawn_from_all(1)
