import pytest
import torch

from kdengine.seeds import seeded


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
