"""Masks: whatever happens to an image happens to its mask, wherever both come from."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from kdengine import Data, DataError, SettingsError, Split
from kdengine.config.settings import TrainSettings
from kdengine.data import decoding
from kdengine.data.augmentation import Augmentation
from kdengine.data.batches import MemoryBatches
from kdengine.data.decoding import decode_with_masks
from kdengine.data.load import ready
from kdengine.data.masks import apart, check_values, index_image, joined
from kdengine.data.worker_batches import HeldBatches, StreamBatches

CPU = torch.device("cpu")
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
COUNT, HEIGHT, WIDTH, CLASSES = 13, 16, 12, 5
RESIZED = {"augment": "resized-crop", "color_jitter": 0.4, "erase": 0.5}


def of(**settings):
    return Augmentation.of(TrainSettings(**settings), "crop-flip", MEAN)


@pytest.fixture(scope="module")
def images():
    draws = torch.Generator().manual_seed(0)
    return torch.randint(1, 256, (COUNT, 3, HEIGHT, WIDTH), dtype=torch.uint8, generator=draws)


@pytest.fixture(scope="module")
def masks():
    found = torch.randint(0, CLASSES, (COUNT, HEIGHT, WIDTH), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    found[:, :2] = 255
    return found


@pytest.fixture(scope="module")
def items(images, masks):
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    return [(picture, Image.fromarray(mask.numpy())) for picture, mask in zip(pictures, masks, strict=True)]


def same(one, other):
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("x", "y", "index")) and all(
        map(torch.equal, one.views, other.views)
    )


def by_position(batches):
    """Images and masks of an epoch in the order of the data set."""
    came = list(batches.epoch(1))
    order = torch.cat([batch.index for batch in came]).argsort()
    return tuple(torch.cat([getattr(batch, name) for batch in came])[order] for name in ("x", "y"))


def test_a_joined_mask_comes_apart_as_it_was_and_zeros_mean_ignored(images, masks):
    back, found = apart(joined(images, masks))
    assert torch.equal(back, images)
    assert torch.equal(found, masks)
    assert apart(torch.zeros(1, 4, 2, 2, dtype=torch.uint8))[1].unique().tolist() == [255]


def test_a_crop_and_a_flip_move_image_and_mask_together():
    image = torch.arange(1, HEIGHT * WIDTH + 1, dtype=torch.uint8).reshape(1, 1, HEIGHT, WIDTH).expand(40, 3, -1, -1)
    shown = of(augment="crop-flip")(joined(image, image[:, 0] - 1), torch.arange(40), 0, 0, masked=True)
    moved, mask = apart(shown)
    assert torch.equal(mask, moved[:, 0] - 1), "where zeros were moved in, 0 - 1 is 255: ignored"
    assert len(mask.flatten(1).unique(dim=0)) > 20


def test_a_resized_crop_cuts_the_same_window_and_keeps_the_values_of_the_mask():
    mask = torch.zeros(20, 32, 32, dtype=torch.uint8)
    mask[:, 8:20, 10:30], mask[:, 22:, :12] = 3, 255
    images = torch.where(mask == 0, 0, 200).to(torch.uint8)[:, None].repeat(1, 3, 1, 1)
    shown, found = apart(of(augment="resized-crop")(joined(images, mask), torch.arange(20), 0, 0, masked=True))
    assert set(found.unique().tolist()) == {0, 3, 255}
    assert ((shown[:, 0] > 100) == (found > 0)).float().mean() > 0.98
    assert len(found.flatten(1).unique(dim=0)) == 20


@pytest.mark.parametrize("settings", [{"augment": "crop-flip"}, RESIZED, {**RESIZED, "augment": "none"}])
def test_images_with_masks_are_changed_bit_by_bit_as_images_without(settings, images, masks):
    augmentation, places = of(**settings), torch.arange(COUNT)
    alone = augmentation(images, places, 3, 1)
    shown, found = apart(augmentation(joined(images, masks), places, 3, 1, masked=True))
    assert torch.equal(shown, alone)
    if settings["augment"] == "none":
        assert torch.equal(found, masks), "colours and erasing leave the mask"


@pytest.mark.parametrize("second", [None, of(augment="crop-flip+rand-augment")], ids=["one view", "two views"])
@pytest.mark.parametrize("settings", [{"augment": "crop-flip"}, RESIZED], ids=["fast", "slow"])
def test_masks_are_the_same_bits_wherever_they_come_from(settings, second, images, masks, items):
    shared = {"mean": MEAN, "std": STD, "batch_size": 5, "seed": 2, "augmentation": of(**settings), "second": second}
    shared["masked"] = True
    memory = MemoryBatches(images, masks, **shared)
    held = HeldBatches(images, masks, workers=1, **shared)
    zeros, size = torch.zeros(COUNT, dtype=torch.int64), {"size": (HEIGHT, WIDTH), "classes": CLASSES}
    streams = [StreamBatches(items, zeros, workers=workers, **size, **shared) for workers in (0, 1)]
    whole = list(memory.epoch(1))
    assert whole[0].y.dtype == torch.int64
    assert whole[0].x.shape == (5, 3, HEIGHT, WIDTH)
    for other in (held, *streams):
        found = list(other.epoch(1, 1))
        assert len(found) == 2
        for one, two in zip(found, whole[1:], strict=True):
            assert same(one, two)
            assert one.x.stride() == two.x.stride(), "another memory layout would round convolutions differently"
    assert all(map(torch.equal, by_position(memory), by_position(replace(memory, batch_size=7))))


def test_a_second_view_changes_neither_the_first_nor_its_mask(images, masks):
    one = MemoryBatches(images, masks, MEAN, STD, 5, seed=0, augmentation=of(augment="crop-flip"), masked=True)
    for single, double in zip(one.epoch(0), replace(one, second=of(augment="crop")).epoch(0), strict=True):
        assert torch.equal(single.x, double.x)
        assert torch.equal(single.y, double.y)
        assert double.views[0].shape == single.x.shape
        assert not torch.equal(double.views[0], double.x)


# a data set -----------------------------------------------------------------------------------------------------------


def data_of(items, **changes):
    split = Split(torch.zeros(len(items), dtype=torch.int64), items=items, masked=True)
    names = tuple("abcde")
    data = Data("m", names, (3, HEIGHT, WIDTH), (), (), "crop-flip", split, split.first(4), task="segmentation")
    return replace(data, **changes)


def test_data_is_the_same_held_and_streamed(items, masks, monkeypatch):
    held = ready(data_of(items))
    monkeypatch.setattr(decoding, "MEMORY_LIMIT", 0)
    streamed = ready(data_of(items))
    assert torch.equal(held.targets, masks)
    assert (streamed.targets, streamed.train.images) == (None, None)
    assert (held.mean, held.std) == (streamed.mean, streamed.std)
    settings = TrainSettings(batch_size=5, workers=0)
    for one, other in ((data.train_batches(settings, 0, CPU), data.test_batches(settings, CPU)) for data in (held, streamed)):
        assert torch.equal(next(iter(other.epoch(0))).y, masks[:4].long())
        assert {tuple(batch.y.shape[1:]) for batch in one.epoch(0)} == {(HEIGHT, WIDTH)}
    pairs = (data.train_batches(settings, 0, CPU).epoch(1) for data in (held, streamed))
    assert all(same(*pair) for pair in zip(*pairs, strict=True))
    assert len(held.holding_out(0.2).validation.labels[0]) == HEIGHT


@pytest.mark.parametrize("limit", [0, 2**30], ids=["streamed", "held"])
def test_another_mask_is_another_fingerprint_and_the_same_statistics(limit, items, monkeypatch):
    monkeypatch.setattr(decoding, "MEMORY_LIMIT", limit)
    other = [*items[:-1], (items[-1][0], Image.new("L", (WIDTH, HEIGHT), 1))]
    one, two = ready(data_of(items)), ready(data_of(other))
    assert one.fingerprint != two.fingerprint
    assert (one.mean, one.std) == (two.mean, two.std)
    assert len(one.mean) == 3


@pytest.mark.parametrize("policy", ["rand-augment", "crop+auto-augment", "trivial"])
def test_policies_that_leave_masks_behind_are_refused_before_anything_runs(policy, items):
    data = ready(data_of(items))
    with pytest.raises(
        SettingsError, match=rf"train.augment = '{policy.replace('+', '.')}'.*without their masks.*resized-crop"
    ):
        data.train_batches(TrainSettings(augment=policy), 0, CPU)
    assert data.second_view(TrainSettings()).policy == "rand-augment", "the second view has no mask"


def test_images_and_masks_are_brought_to_size_alike():
    image = np.zeros((24, 40, 3), np.uint8)
    image[6:18, 10:30] = 255
    pair = Image.fromarray(image), Image.fromarray((image[::2, ::2, 0] > 0).astype(np.uint8))
    pixels, mask = decode_with_masks([pair], 16, 16, 2)
    assert mask.unique().tolist() == [0, 1]
    assert torch.equal(pixels[0, 0] > 127, mask[0] > 0)


# what goes wrong ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0, 2**30], ids=["streamed", "held"])
def test_a_value_that_is_no_class_is_refused_by_name(limit, items, monkeypatch):
    monkeypatch.setattr(decoding, "MEMORY_LIMIT", limit)
    wrong = [items[0], (items[1][0], Image.new("L", (WIDTH, HEIGHT), 7))]
    with pytest.raises(DataError, match=r"Image 1 has a mask with the value 7, but its 5 classes count from 0 to 4. Give 255"):
        list(ready(data_of(wrong)).train_batches(TrainSettings(workers=0), 0, CPU).epoch(0))


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (Image.new("RGB", (WIDTH, HEIGHT)), "mask of mode RGB, but a mask is an image of class indices"),
        (Image.new("F", (WIDTH, HEIGHT)), "mask of mode F"),
        (Image.new("I", (WIDTH, HEIGHT), 300), "value 300, but values go from 0 to 255"),
        (Image.new("L", (HEIGHT, WIDTH)), "Image 0 has 12 x 16 pixels, but its mask 16 x 12"),
        (1, "Image 0 comes without a mask"),
    ],
    ids=["colours", "fractions", "large", "shape", "label"],
)
def test_what_is_no_mask_is_refused_with_the_reason(mask, said, items):
    with pytest.raises(DataError, match=said):
        decode_with_masks([(items[0][0], mask)], WIDTH, HEIGHT, 5)


@pytest.mark.parametrize("mode", ["P", "L", "1", "I", "I;16"])
def test_every_kind_of_index_image_gives_its_indices(mode):
    values = np.array([[0, 1], [1, 0]], np.uint8)
    mask = Image.fromarray(values)
    mask = Image.fromarray(values > 0) if mode == "1" else mask.convert(mode) if mode != "P" else mask
    if mode == "P":
        mask.putpalette([255, 0, 0, 0, 255, 0])
    assert mask.mode == mode
    found = index_image(mask, Image.new("RGB", (4, 4)), "It")
    assert np.asarray(found).tolist() == values.tolist()
    check_values(found, 2, "It")


def test_masks_of_another_size_than_the_images_in_memory_are_refused(images):
    split = Split(torch.zeros(COUNT, 4, 4, dtype=torch.uint8), images)
    data = Data("m", ("a", "b"), (3, HEIGHT, WIDTH), (), (), "none", split, split, task="segmentation")
    with pytest.raises(
        DataError, match=r"'m' has masks torch.uint8 \[13, 4, 4\], but uint8 \[N, H, W\] is needed, with .*16, 12"
    ):
        ready(data)


def test_nothing_is_drawn_from_the_global_random_states(images, masks):
    def states():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    before = states()
    of(**RESIZED)(joined(images, masks), torch.arange(COUNT), 0, 0, masked=True)
    assert states() == before
