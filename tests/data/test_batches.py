import random

import numpy as np
import pytest
import torch

from kdengine.config.settings import TrainSettings
from kdengine.data.augmentation import Augmentation
from kdengine.data.batches import Batch, MemoryBatches, ShardedBatches

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


@pytest.fixture
def images():
    return torch.randint(0, 256, (23, 3, 8, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def memory(images, **changes):
    settings = {"batch_size": 5, "seed": 0, "augmentation": augmentation(changes.pop("augment", "crop-flip"))} | changes
    return MemoryBatches(images, torch.arange(len(images)) % 7, MEAN, STD, **settings)


def augmentation(name):
    return Augmentation.of(TrainSettings(augment=name))


def order_of(batches, epoch):
    return torch.cat([batch.index for batch in batches.epoch(epoch)]).tolist()


def pixels_of(batches, epoch):
    return torch.cat([batch.x for batch in batches.epoch(epoch)])


def states():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


def test_every_image_comes_exactly_once_an_epoch_with_its_label(images):
    batches = list(memory(images).epoch(0))
    order = torch.cat([batch.index for batch in batches])
    assert order.sort().values.tolist() == list(range(23))
    assert order.tolist() != list(range(23))
    assert torch.equal(torch.cat([batch.y for batch in batches]), order % 7)


def test_every_image_keeps_its_own_label_and_index(images):
    batches, plain = memory(images, augment="none"), pixels_of(memory(images, seed=None, augment="none"), 0)
    for batch in batches.epoch(0):
        assert torch.equal(batch.x, plain[batch.index])
        assert torch.equal(batch.y, batch.index % 7)


def test_the_length_of_a_batch_is_its_number_of_images(images):
    assert [len(batch) for batch in memory(images).epoch(0)] == [5, 5, 5, 5, 3]


def test_the_last_batch_is_as_small_as_it_must_be(images):
    batches = memory(images)
    assert [len(batch.x) for batch in batches.epoch(0)] == [5, 5, 5, 5, 3]
    assert len(batches) == 5
    assert [len(batch.x) for batch in memory(images, batch_size=23).epoch(0)] == [23]
    assert len(memory(images, batch_size=500)) == 1


def test_an_epoch_can_be_repeated_bit_for_bit(images):
    first, again = memory(images), memory(images)
    list(again.epoch(3))
    assert order_of(first, 1) == order_of(again, 1)
    assert torch.equal(pixels_of(first, 1), pixels_of(again, 1))


def test_another_epoch_or_seed_has_another_order_and_other_crops(images):
    batches, other = memory(images), memory(images, seed=1)
    orders = [order_of(batches, 0), order_of(batches, 1), order_of(other, 0)]
    assert len({tuple(order) for order in orders}) == 3
    sorted_pixels = [
        pixels[torch.tensor(order).argsort()]
        for pixels, order in zip([pixels_of(batches, 0), pixels_of(batches, 1), pixels_of(other, 0)], orders, strict=True)
    ]
    assert not torch.equal(sorted_pixels[0], sorted_pixels[1])
    assert not torch.equal(sorted_pixels[0], sorted_pixels[2])


def test_without_a_seed_images_come_in_their_own_order_and_as_they_are(images):
    batches = memory(images, seed=None)
    assert order_of(batches, 5) == list(range(23))
    assert torch.equal(pixels_of(batches, 5), pixels_of(memory(images, seed=None, augment="none"), 0))


def test_normalisation_is_the_formula(images):
    x = pixels_of(memory(images, seed=None, augment="none"), 0)
    expected = (images.double() / 255 - torch.tensor(MEAN).double().view(3, 1, 1)) / torch.tensor(STD).double().view(3, 1, 1)
    assert x.dtype == torch.float32
    torch.testing.assert_close(x.double(), expected, rtol=1e-5, atol=1e-5)


def test_no_batch_draws_from_the_global_random_state(images):
    before = states()
    list(memory(images).epoch(0))
    assert states() == before


# the rest of an epoch --------------------------------------------------------------------------------------------------


def is_the_rest(rest, whole):
    """Whether batches are the last ones of others, bit for bit."""
    rest = list(rest)
    pairs = list(zip(rest, whole[len(whole) - len(rest) :], strict=True))
    return all(torch.equal(getattr(one, name), getattr(other, name)) for one, other in pairs for name in ("x", "y", "index"))


@pytest.mark.parametrize("augment", ["none", "crop", "crop-flip"])
@pytest.mark.parametrize("seed", [None, 4])
def test_an_epoch_begun_in_the_middle_goes_on_as_a_whole_one_does(images, augment, seed):
    batches = memory(images, augment=augment, seed=seed)
    whole = list(batches.epoch(2))
    for start in range(6):
        rest = list(batches.epoch(2, start))
        assert len(rest) == 5 - start
        assert is_the_rest(rest, whole)


def test_skipped_images_are_not_made(images, monkeypatch):
    made = []
    normalised = MemoryBatches._normalised
    monkeypatch.setattr(MemoryBatches, "_normalised", lambda self, x: made.append(len(x)) or normalised(self, x))
    list(memory(images).epoch(0, 3))
    assert made == [5, 3]


def test_a_process_begins_in_the_middle_with_its_share(images):
    shared = ShardedBatches(memory(images), 1, 2)
    rest = list(shared.epoch(0, 2))
    assert len(rest) == 3
    assert is_the_rest(rest, list(shared.epoch(0)))


# several processes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_each_batch_without_overlap_and_see_the_same_images_as_one(processes):
    images = torch.randint(0, 256, (20, 3, 8, 8), dtype=torch.uint8)
    whole = MemoryBatches(images, torch.arange(20), (0.5,) * 3, (0.25,) * 3, 7, seed=3, augmentation=augmentation("crop-flip"))
    shares = [list(ShardedBatches(whole, rank, processes).epoch(1)) for rank in range(processes)]
    for number, batch in enumerate(whole.epoch(1)):
        index = torch.cat([share[number].index for share in shares])
        assert sorted(index.tolist()) == sorted(batch.index.tolist())
        for rank, share in enumerate(shares):
            assert torch.equal(share[number].x, batch.x[rank::processes])
            assert share[number].shares == tuple(len(other[number]) for other in shares)


def test_the_host_knows_which_images_a_device_has(images):
    here, away = memory(images), memory(images, device=torch.device("meta"))
    for mine, theirs in zip(here.epoch(1), away.epoch(1), strict=True):
        assert theirs.index.is_meta
        assert torch.equal(theirs.positions, mine.index)
    for mine, theirs in zip(ShardedBatches(here, 1, 2).epoch(1), ShardedBatches(away, 1, 2).epoch(1), strict=True):
        assert torch.equal(theirs.positions, mine.index)


def test_batches_without_an_index_are_shared_too():
    class Unindexed:
        def epoch(self, number, start):
            yield Batch(torch.zeros(4, 3, 8, 8), torch.arange(4), None)

    (batch,) = ShardedBatches(Unindexed(), 1, 2).epoch(0)
    assert (len(batch), batch.y.tolist(), batch.index) == (2, [1, 3], None)


def test_a_last_batch_smaller_than_the_processes_goes_to_each_of_them():
    images = torch.zeros(5, 3, 8, 8, dtype=torch.uint8)
    whole = MemoryBatches(images, torch.arange(5), (0.5,) * 3, (0.25,) * 3, 4)
    last = [list(ShardedBatches(whole, rank, 2).epoch(0))[-1] for rank in range(2)]
    assert [batch.index.tolist() for batch in last] == [[4], [4]]
    assert [batch.shares for batch in last] == [(1, 0), (1, 0)], "the first answers for it"


@pytest.mark.parametrize("processes", [2, 3])
def test_the_mean_over_processes_is_that_of_the_whole_batch_though_their_shares_differ(processes):
    values = torch.arange(20, dtype=torch.float64) ** 2
    whole = MemoryBatches(torch.zeros(20, 3, 8, 8, dtype=torch.uint8), torch.arange(20), (0.5,) * 3, (0.25,) * 3, 8)
    shares = [list(ShardedBatches(whole, rank, processes).epoch(0)) for rank in range(processes)]
    for number, batch in enumerate(whole.epoch(0)):
        parts = [share[number].weighed({"task": values[share[number].index].mean()})["task"] for share in shares]
        assert sum(parts) / processes == pytest.approx(values[batch.index].mean())


def test_only_one_process_counts_images_that_all_of_them_see():
    whole = MemoryBatches(torch.zeros(5, 3, 8, 8, dtype=torch.uint8), torch.arange(5), (0.5,) * 3, (0.25,) * 3, 4)
    counted = [[batch.is_counted for batch in ShardedBatches(whole, rank, 3).epoch(0)] for rank in range(3)]
    assert counted == [[True, True], [True, False], [True, False]]
    assert all(batch.weight == 1 for batch in list(ShardedBatches(whole, 2, 3).epoch(0))[1:])
