import numpy as np
import pytest
import torch

from kdengine.data.load import load_data
from kdengine.errors import DataError


def refusal(text):
    with pytest.raises(DataError) as caught:
        load_data(text)
    return str(caught.value)


# digits ---------------------------------------------------------------------------------------------------------------


def test_digits_have_the_facts_that_the_readme_states(digits):
    assert (len(digits.train), len(digits.test)) == (1438, 359)
    assert digits.input_size == (3, 32, 32)
    assert digits.train.images.shape == (1438, 3, 32, 32)
    assert digits.train.images.dtype == torch.uint8
    assert digits.classes == tuple("0123456789")


def test_digits_have_all_classes_about_equally_often(digits):
    train, test = (torch.bincount(split.labels, minlength=10) / len(split) for split in (digits.train, digits.test))
    assert 0.08 < train.min() < train.max() < 0.12
    assert 0.09 < test.min() < test.max() < 0.11


def test_digits_are_those_of_scikit_learn_enlarged_four_times(digits):
    from sklearn.datasets import load_digits

    bunch = load_digits()
    test = np.zeros(len(bunch.target), dtype=bool)
    for digit in range(10):
        before = int((bunch.target < digit).sum())  # every fifth is counted on through the classes
        test[[place for number, place in enumerate(np.flatnonzero(bunch.target == digit)) if (before + number) % 5 == 4]] = True
    for split, chosen in ((digits.train, ~test), (digits.test, test)):
        assert split.labels.tolist() == bunch.target[chosen].tolist()
        expected = np.kron(np.round(bunch.images[chosen] * 255 / 16), np.ones((1, 4, 4)))
        for channel in range(3):
            assert np.array_equal(split.images[:, channel].numpy(), expected)


# cifar ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_that_is_not_there_is_answered_with_what_to_do(name, tmp_path):
    answer = refusal(f"{name}@root={tmp_path}")
    assert answer.startswith(f"{name} could not be loaded: ")
    assert "give a folder: 'hf:FOLDER'" in answer
