import torch

from kdengine.data.draws import hashed, uniform

MASK = 2**64 - 1


def splitmix(state):
    """The output of splitmix64 for one state, in Python's integers."""
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB & MASK
    return state ^ (state >> 31)


def test_the_draws_are_those_of_splitmix64():
    base = hashed(7, 3)
    for index in (0, 5, 2**40):
        own = splitmix((index * 0x9E3779B97F4A7C15 + base) & MASK)
        for number in range(3):
            expected = (splitmix((own + (number + 1) * 0x9E3779B97F4A7C15) & MASK) >> 11) / 2**53
            assert uniform(7, 3, torch.tensor([index]), 3)[0, number] == expected


def test_an_image_has_the_same_draws_in_whatever_batch_it_comes():
    together = uniform(1, 2, torch.arange(100), 4)
    assert torch.equal(uniform(1, 2, torch.tensor([70, 3]), 4), together[[70, 3]])
    assert torch.equal(uniform(1, 2, torch.arange(100), 2), together[:, :2])


def test_draws_are_uniform_and_differ_with_seed_epoch_image_and_number():
    draws = uniform(0, 0, torch.arange(5000), 4)
    assert draws.min() >= 0
    assert draws.max() < 1
    assert draws.dtype == torch.float64
    assert (draws.mean(0) - 0.5).abs().max() < 0.02
    assert (draws.std(0) - 12**-0.5).abs().max() < 0.01
    assert torch.corrcoef(torch.cat([draws, uniform(0, 1, torch.arange(5000), 4)], 1).T).fill_diagonal_(0).abs().max() < 0.06
    assert len(draws.unique()) == draws.numel()


def test_a_hash_depends_on_every_key_and_on_their_order():
    keys = [(1, 2, 3), (1, 2, 4), (2, 1, 3), (1, 2), (0, 1, 2, 3), (2**40, 2, 3)]
    found = [hashed(*key) for key in keys]
    assert len(set(found)) == len(keys)
    assert all(0 <= value < 2**63 for value in found)
    assert found == [hashed(*key) for key in keys]
