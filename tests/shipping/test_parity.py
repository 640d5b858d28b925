from types import SimpleNamespace

import pytest
import torch
from torch import nn

from kdengine import ModelError
from kdengine.config.settings import Settings
from kdengine.data.load import load_data
from kdengine.shipping.parity import Sample, largest_difference

LOGITS = torch.tensor([[3.0, -2.0], [0.5, 1.0], [0.1, 0.2]])
SAMPLE = Sample(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.zeros(3, 1, 2, 2), LOGITS)
GIVEN = torch.zeros(3, 1, 2, 2)


def compared(run, *batches):
    return largest_difference(run, GIVEN, SAMPLE, [slice(0, count) for count in batches or (3,)])


def test_the_largest_difference_over_all_batches_is_told():
    assert compared(lambda images: LOGITS[: len(images)]) == 0
    assert compared(lambda images: LOGITS[: len(images)] + 5e-5 * (len(images) == 1), 3, 1) == pytest.approx(5e-5, rel=0.01)


def test_large_outputs_may_differ_by_as_much_of_themselves():
    assert compared(lambda images: LOGITS + 2.9e-4) > 2e-4
    with pytest.raises(ModelError, match=r"differ by up to 0.00031, more than 0.0003"):
        compared(lambda images: LOGITS + 3.1e-4)


@pytest.mark.parametrize("count", [1, 3])
def test_numbers_that_are_none_and_another_shape_are_refused(count):
    with pytest.raises(ModelError, match=f"on {count} test images"):
        compared(lambda images: LOGITS[: len(images)] * float("nan"), count)
    with pytest.raises(ModelError, match=f"cannot be run on a batch of {count}"):
        compared(lambda images: LOGITS[:, :0][: len(images)], count)


def test_every_batch_is_compared_with_its_own_images():
    wanted = iter([LOGITS[:2], LOGITS[2:]])
    assert largest_difference(lambda images: next(wanted), GIVEN, SAMPLE, [slice(0, 2), slice(2, 3)]) == 0


def test_a_sample_may_be_larger_than_a_batch_of_evaluation():
    data, settings = load_data("digits@train=8@test=8"), Settings(student="resnet8")
    student = SimpleNamespace(data=data, settings=settings, preprocess=nn.Identity(), network=nn.Flatten())
    sample = Sample.of(student, 512)
    assert {len(tensor) for tensor in (sample.images, sample.received, sample.logits)} == {512}
    assert torch.equal(sample.logits, sample.received.flatten(1))
    assert torch.equal(sample.images[504:], data.test.images), "in their order, over and over"
    assert torch.equal(sample.received[504:], sample.received[:8])
