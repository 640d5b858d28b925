import pytest
import torch

from kdengine import DataError
from kdengine.data.load import load_data


def test_the_labels_are_the_digits_on_the_canvas_and_every_scene_is_the_same_each_time():
    data = load_data("digit-scenes@train=30@test=10")
    again = load_data("digit-scenes@train=30@test=10")
    assert torch.equal(data.train.images, again.train.images)
    assert (data.task, data.input_size, data.num_classes) == ("multilabel", (3, 64, 64), 10)
    assert data.train.labels.shape == (30, 10)
    counts = data.train.labels.sum(1)
    assert counts.min() >= 1
    assert counts.max() <= 4
    assert counts.unique().numel() > 2
    # bright pixels only in the quarters that hold a digit, at most one in each
    quarters = data.train.images[:, 0].reshape(30, 2, 32, 2, 32).amax((2, 4)).reshape(30, 4) > 100
    assert (quarters.sum(1) >= counts).all(), "two equal digits are one label"
    assert not torch.equal(data.train.images[:10], data.test.images[:10])


def test_scenes_come_in_any_size():
    assert load_data("digit-scenes@size=40@train=4@test=2").input_size == (3, 40, 40)


@pytest.mark.parametrize("size", [8, 5000, "big", True])
def test_a_size_that_is_none_is_refused(size):
    with pytest.raises(DataError, match="takes a number of pixels from 16 to 1024"):
        load_data(f"digit-scenes@size={size}@train=4@test=2")


def test_masks_show_each_digit_where_its_ink_is_on_the_same_canvases():
    labels, masks = (load_data(f"digit-scenes@train=40@test=10{option}") for option in ("", "@target=masks"))
    assert torch.equal(labels.train.images, masks.train.images)
    assert torch.equal(labels.test.images, masks.test.images)
    assert (masks.task, masks.classes[:2], masks.num_classes) == ("segmentation", ("background", "0"), 11)
    assert masks.train.labels.shape == (40, 64, 64)
    shown = torch.stack([(masks.train.labels == digit + 1).flatten(1).any(1) for digit in range(10)], 1)
    assert torch.equal(shown, labels.train.labels.bool()), "the digits of a mask are the labels"
    bright = masks.train.images[:, 0] > 64
    assert torch.equal(masks.train.labels > 0, bright)


def test_an_unknown_target_is_refused_with_those_there_are():
    with pytest.raises(DataError, match="@target takes labels or masks, got 'boxes'"):
        load_data("digit-scenes@target=boxes")
