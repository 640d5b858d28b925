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
