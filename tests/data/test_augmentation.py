import random

import numpy as np
import pytest
import torch

from kdengine import SettingsError
from kdengine.config.settings import TrainSettings
from kdengine.data.augmentation import Augmentation, cropped, flipped
from kdengine.data.batches import MemoryBatches
from kdengine.data.worker_batches import HeldBatches

ALL = {"augment": "resized-crop+rand-augment", "color_jitter": 0.4, "erase": 0.5}


def of(usual="crop-flip", mean=(0.5, 0.5, 0.5), **settings):
    return Augmentation.of(TrainSettings(**settings), usual, mean)


@pytest.fixture(scope="module")
def images():
    return torch.randint(0, 256, (24, 3, 16, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_a_crop_is_a_window_of_the_padded_image_for_each_image_on_its_own(images):
    draws = torch.rand(24, 2, generator=torch.Generator().manual_seed(1))
    tops, lefts = (draws[:, 0] * 5).long().tolist(), (draws[:, 1] * 3).long().tolist()  # an eighth of 16 and of 12 pixels
    for image, crop, top, left in zip(images.numpy(), cropped(images, draws).numpy(), tops, lefts, strict=True):
        padded = np.zeros((3, 20, 14), np.uint8)
        padded[:, 2:18, 1:13] = image
        assert np.array_equal(crop, padded[:, top : top + 16, left : left + 12])
    assert {0, 4} <= set(tops), "the outermost windows are drawn too"


def test_an_image_of_32_pixels_is_padded_by_4():
    white = torch.full((2, 1, 32, 32), 255, dtype=torch.uint8)
    corners = cropped(white, torch.tensor([[0.0, 0.0], [0.999, 0.999]], dtype=torch.float64))
    assert [int((corner == 0).sum()) for corner in corners] == [32 * 32 - 28 * 28] * 2


def test_a_flip_mirrors_the_images_whose_draw_is_below_one_half(images):
    draws = torch.tensor([0.2, 0.8] * 12)
    found = flipped(images, draws)
    assert torch.equal(found[::2], images[::2].flip(3))
    assert torch.equal(found[1::2], images[1::2])


@pytest.mark.parametrize(
    ("settings", "usual", "expected"),
    [
        ({"augment": "auto"}, "crop-flip", {"crop": True, "flip": True}),
        ({"augment": "auto"}, "crop", {"crop": True}),
        ({"augment": "none"}, "crop-flip", {}),
        ({"augment": "crop"}, "crop-flip", {"crop": True}),
        ({"augment": "rand-augment"}, "crop", {"crop": True, "policy": "rand-augment"}),
        ({"augment": "none+trivial"}, "crop", {"policy": "trivial"}),
        ({"augment": "resized-crop"}, "crop", {"resize": 0.08}),
        ({"augment": "resized-crop+auto-augment"}, "crop-flip", {"resize": 0.08, "flip": True, "policy": "auto-augment"}),
        ({"augment": "none", "erase": 0.25, "color_jitter": 0.4}, "crop", {"erase": 0.25, "jitter": 0.4}),
    ],
)
def test_the_settings_name_a_crop_a_policy_or_both(settings, usual, expected):
    fill = (127.5,) * 3
    assert of(usual, **settings) == Augmentation(**expected, fill=fill)


@pytest.mark.parametrize("name", ["cropp", "crop+crop-flip", "trivial+rand-augment", "", "crop+", "rand-augment+turn"])
def test_other_names_are_refused_with_those_that_are_allowed(name):
    with pytest.raises(SettingsError, match=r"it must be one of auto, none, crop, .* joined by '\+'"):
        TrainSettings.checked({"augment": name}, owner="train")


@pytest.mark.parametrize("name", ["resized-crop", "none+rand-augment", "none+auto-augment", "none+trivial"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_policy_changes_each_image_in_its_own_way_and_keeps_its_form(name, channels):
    gradient = torch.arange(16, dtype=torch.uint8).mul(15).expand(12, channels, 20, 16).contiguous()
    found = of("crop", (0.5,) * channels, augment=name)(gradient, torch.arange(12), 0, 0)
    assert found.shape == gradient.shape
    assert found.dtype == torch.uint8
    assert len({image.numpy().tobytes() for image in found}) > 6


def test_erasing_fills_a_rectangle_with_the_mean(images):
    black = torch.zeros_like(images)
    found = of(augment="none", erase=1.0)(black, torch.arange(24), 0, 0)
    for image in found:
        rows, columns = (image[0] == 127).nonzero(as_tuple=True)
        assert len(rows) == (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1) > 0
    assert int((of(augment="none", erase=0.5)(black, torch.arange(24), 0, 0) > 0).flatten(1).any(1).sum()) in range(4, 21)


def test_jitter_changes_colours_and_leaves_places():
    image = torch.zeros(8, 3, 8, 8, dtype=torch.uint8)
    image[:, :, 2:5, 3:6] = 100
    found = of(augment="none", color_jitter=0.5)(image, torch.arange(8), 0, 0)
    assert len({int(one[0, 3, 4]) for one in found}) > 4
    assert all(len(one.flatten(1).unique(dim=1).T) == 2 for one in found)


@pytest.mark.parametrize("settings", [{"augment": "crop-flip"}, ALL])
def test_an_image_is_changed_alike_in_whatever_batch_it_comes(images, settings):
    augmentation = of(**settings)
    together = augmentation(images, torch.arange(24), 3, 1)
    places = torch.tensor([5, 17, 0])
    assert torch.equal(augmentation(images[places], places, 3, 1), together[places])
    for seed, epoch in ((3, 2), (4, 1)):
        assert not torch.equal(augmentation(images, torch.arange(24), seed, epoch), together)


def test_workers_and_this_process_give_the_same_batches_from_any_step_on(images):
    shared = (torch.arange(24) % 7, (0.5,) * 3, (0.25,) * 3, 7)
    augmentation = of(**ALL)
    held = MemoryBatches(images, *shared, seed=2, augmentation=augmentation)
    helped = HeldBatches(images, *shared, seed=2, augmentation=augmentation, workers=2)
    whole = list(held.epoch(1))
    for found in (list(helped.epoch(1)), list(held.epoch(1, 2)), list(helped.epoch(1, 2))):
        for one, other in zip(reversed(found), reversed(whole), strict=False):
            assert all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("x", "y", "index"))


def test_nothing_is_drawn_from_the_global_random_states(images):
    def states():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    before = states()
    of(**ALL)(images, torch.arange(24), 0, 0)
    assert states() == before
