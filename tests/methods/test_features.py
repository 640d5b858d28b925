import numpy as np
import pytest
import torch

from kdengine import flat_features, gram, l2_normalize, match_spatial, pool_to_vectors, resize_maps


def maps(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_maps_and_tokens_become_their_means_and_vectors_stay():
    found = pool_to_vectors(maps(2, 3, 4, 5))
    assert np.allclose(found, maps(2, 3, 4, 5).numpy().mean((2, 3)), atol=1e-6)
    assert np.allclose(pool_to_vectors(maps(2, 7, 3)), maps(2, 7, 3).numpy().mean(1), atol=1e-6)
    assert torch.equal(pool_to_vectors(maps(2, 3)), maps(2, 3))


def test_a_smaller_size_is_averaged_and_a_larger_one_interpolated():
    given = maps(2, 3, 8, 4)
    boxes = given.numpy().reshape(2, 3, 4, 2, 2, 2).mean((3, 5))
    assert np.allclose(resize_maps(given, (4, 2)), boxes, atol=1e-6)
    assert resize_maps(given, (8, 4)) is given
    larger = resize_maps(given, (16, 2))
    assert larger.shape == (2, 3, 16, 2)
    constant = resize_maps(torch.ones(1, 1, 2, 2), (5, 5))
    assert torch.allclose(constant, torch.ones(1, 1, 5, 5))


@pytest.mark.parametrize(
    ("one", "other", "size"), [((8, 8), (4, 4), (4, 4)), ((6, 2), (3, 4), (3, 2)), ((4, 4), (4, 4), (4, 4))]
)
def test_both_maps_come_in_the_smaller_size_of_each_direction(one, other, size):
    first, second = match_spatial(maps(2, 3, *one), maps(2, 5, *other))
    assert (first.shape, second.shape) == ((2, 3, *size), (2, 5, *size))


def test_vectors_are_scaled_to_length_one_along_an_axis():
    given = maps(2, 3, 4)
    for dim in (-1, 1):
        lengths = np.linalg.norm(given.numpy(), axis=dim, keepdims=True)
        assert np.allclose(l2_normalize(given, dim), given.numpy() / lengths, atol=1e-6)


def test_a_zero_vector_stays_zero_and_gets_no_gradient():
    given = torch.zeros(2, 3, requires_grad=True)
    l2_normalize(given).sum().backward()
    assert torch.equal(l2_normalize(given), torch.zeros(2, 3))
    assert torch.equal(given.grad, torch.zeros(2, 3))


@pytest.mark.parametrize("transposed", [False, True])
def test_products_of_vectors_and_their_gradient_are_those_of_the_product_itself(transposed):
    given = maps(2, 4, 5).double()
    given = (given.mT.contiguous().mT if transposed else given).requires_grad_()
    assert torch.equal(gram(given), given @ given.mT)
    weights = maps(2, 4, 4).double()  # not symmetric
    found, expected = (torch.autograd.grad((weights * value).sum(), given)[0] for value in (gram(given), given @ given.mT))
    assert torch.allclose(found, expected, rtol=1e-12)
    assert found.stride() == given.stride()
    assert torch.autograd.gradgradcheck(gram, given)


def test_flat_features_are_all_features_of_an_image_and_no_copy_in_either_layout():
    given = maps(2, 3, 4, 5)
    assert torch.equal(flat_features(given), given.flatten(1))
    lasting = given.contiguous(memory_format=torch.channels_last)
    found = flat_features(lasting)
    assert found.data_ptr() == lasting.data_ptr()
    assert torch.equal(found.sort(1).values, given.flatten(1).sort(1).values)
    assert torch.equal(flat_features(maps(2, 7, 3)), maps(2, 7, 3).flatten(1))
