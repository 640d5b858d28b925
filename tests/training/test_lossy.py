import numpy as np
import pytest
import torch

from kdengine.training.lossy import Exact, Half, TopK

LOGITS = torch.randn(6, 20, generator=torch.Generator().manual_seed(0)) * 3


def softmax(logits, temperature=1.0):
    powers = np.exp(logits / temperature - (logits / temperature).max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


@pytest.mark.parametrize("count", [1, 5, 19])
def test_the_rest_of_the_softmax_is_spread_evenly(count):
    """Against the formula in float64."""
    codec = TopK(count, 20)
    found = codec.decode(codec.encode(LOGITS)).double().numpy()
    shares = softmax(LOGITS.double().numpy())
    expected = np.empty_like(shares)
    for row, share in enumerate(shares):
        top = np.argsort(-share)[:count]
        expected[row] = (1 - share[top].sum()) / (20 - count)
        expected[row][top] = share[top]
    assert np.allclose(softmax(found), expected, atol=1e-6)
    assert np.allclose(np.sort(found)[:, -count:], np.sort(LOGITS.numpy())[:, -count:]), "the logits themselves are kept"


def test_what_is_written_of_the_largest_logits_is_small():
    assert TopK(4, 20).encode(LOGITS).shape == (6, 9)


def test_what_was_kept_once_is_kept_unchanged_from_then_on():
    codec = TopK(4, 20)
    once = codec.decode(codec.encode(LOGITS))
    assert torch.allclose(codec.decode(codec.encode(once)), once, atol=1e-6)
    assert torch.equal(Half().encode(Half().encode(LOGITS)), Half().encode(LOGITS))


def test_half_keeps_eleven_bits_and_nothing_becomes_infinite():
    values = torch.tensor([[1.0, 1 / 3, 70000.0, -1e9]])
    found = Half().encode(values)
    assert found.tolist() == [[1.0, 0.333251953125, 65504.0, -65504.0]]
    assert found.dtype == torch.float32


def test_exact_is_exact():
    assert Exact().decode(Exact().encode(LOGITS)) is LOGITS
