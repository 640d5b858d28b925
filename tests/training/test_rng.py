import random

import numpy as np
import pytest
import torch

from kdengine.training.rng import Randomness

CPU = torch.device("cpu")


def test_a_random_state_of_its_own_disturbs_nobody_and_is_disturbed_by_nobody():
    def draws(disturbed):
        own, found = Randomness(3, torch.device("cpu")), []
        for _ in range(3):
            with own.active():
                found.append(float(torch.rand(())))
            if disturbed:
                torch.rand(5)
        return found

    before = torch.get_rng_state()
    calm = draws(disturbed=False)
    assert torch.equal(torch.get_rng_state(), before)
    assert draws(disturbed=True) == calm
    assert len(set(calm)) == 3


def test_the_global_state_returns_after_an_error_too():
    own, before = Randomness(3, torch.device("cpu")), torch.get_rng_state()

    def fail():
        with own.active():
            torch.rand(5)
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    assert torch.equal(torch.get_rng_state(), before)


def draws():
    return float(torch.rand(())), random.random(), float(np.random.rand())


def test_python_and_numpy_are_drawn_from_it_too_and_left_as_they_were():
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    before = draws()
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    own = Randomness(3, CPU)
    with own.active():
        first = draws()
    assert draws() == before
    with Randomness(3, CPU).active():
        assert draws() == first


def test_the_normal_number_that_numpy_puts_aside_is_kept(tmp_path):
    from kdengine import Engine

    np.random.seed(1)
    np.random.randn()  # draws two, and puts one aside
    before = np.random.get_state()
    Engine(None, "resnet8", data="digits@train=32@test=16", epochs=1, device="cpu", out=tmp_path / "run").fit()
    after = np.random.get_state()
    assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))


def test_it_goes_on_from_a_saved_state_that_needs_no_pickle(tmp_path):
    own, other = Randomness(1, CPU), Randomness(2, CPU)
    with own.active():
        random.gauss(0, 1)
        np.random.rand()
    torch.save(own.state_dict(), tmp_path / "state.pt")
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    with own.active():
        expected = draws(), random.gauss(0, 1), np.random.randn()
    with other.active():
        assert (draws(), random.gauss(0, 1), np.random.randn()) == expected


def test_a_state_of_another_device_is_taken_over_as_far_as_there_is_a_generator_for_it():
    own, other = Randomness(1, CPU), Randomness(2, CPU)
    saved = own.state_dict()
    other.load_state_dict({**saved, "torch": [*saved["torch"], torch.zeros(16, dtype=torch.uint8)]})
    assert len(other.state.torch) == 1
    fresh = Randomness(3, CPU)
    before = fresh.state.torch
    fresh.load_state_dict({**saved, "torch": []})
    assert fresh.state.torch == before
