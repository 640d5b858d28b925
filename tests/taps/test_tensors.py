from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import pytest
import torch

from kdengine.errors import TapError
from kdengine.taps.tensors import Layout, as_grid, first_tensor, logits_of, nth_tensor, tensors_in

A, B = torch.zeros(1), torch.ones(1)


@dataclass
class Record:
    loss: torch.Tensor
    logits: torch.Tensor | None = None


Named = namedtuple("Named", ["main", "aux"])


@pytest.mark.parametrize(
    "value",
    [A, (A, B), [A, B], {"x": A, "y": B}, (None, 3, "text", (A, B)), Named(A, B), Record(A), (Record(A), B), {"a": [(A,)]}],
    ids=lambda value: type(value).__name__,
)
def test_the_first_tensor_is_found_inside_containers(value):
    assert first_tensor(value) is A


@pytest.mark.parametrize(
    "value", [{"loss": B, "logits": A}, OrderedDict(loss=B, logits=A), Record(B, A)], ids=["dict", "ordered", "dataclass"]
)
def test_logits_come_before_a_loss_that_stands_first(value):
    assert first_tensor(value) is A


@pytest.mark.parametrize("value", [None, 3, "text", (), {}, [None], Record, {"logits": 3}])
def test_where_there_is_no_tensor_none_is_found(value):
    assert first_tensor(value) is None


def test_every_tensor_is_found_depth_first():
    assert [id(found) for found in tensors_in((A, {"x": [B]}, Record(A, B)))] == [id(A), id(B), id(A), id(B)]


def test_one_of_several_tensors_is_found_by_its_number():
    assert nth_tensor((A, {"x": [B]}), 1) is B
    assert nth_tensor({"loss": B, "logits": A}, None) is A
    assert nth_tensor((A, B), 2) is None


@pytest.mark.parametrize(
    ("places", "aspect", "grid"),
    [
        (196, 1.0, (14, 14)),
        (1, 1.0, (1, 1)),
        (12, 1.0, None),
        (15, 1.0, None),
        (0, 1.0, None),
        (-3, 1.0, None),
        (98, 2.0, (14, 7)),
        (98, 0.5, (7, 14)),
        (168, 224 / 192, (14, 12)),
        (98, 1.0, None),
    ],
)
def test_a_grid_has_the_proportions_of_the_image(places, aspect, grid):
    assert as_grid(places, aspect) == grid


def test_a_map_is_handed_over_as_it_is():
    image = torch.rand(2, 5, 4, 4)
    assert Layout.of_map(image).apply(image) is image


def test_channels_last_are_told_by_the_proportions_of_the_image():
    image = torch.rand(2, 4, 4, 5)
    assert torch.equal(Layout.of_map(image).apply(image), image.permute(0, 3, 1, 2))


def test_channels_last_are_told_by_the_number_of_channels_where_it_is_known():
    image = torch.rand(2, 4, 4, 4)
    assert Layout.of_map(image, channels=4).kind == "as_is"
    image = torch.rand(2, 7, 5, 6)
    assert Layout.of_map(image, channels=6).apply(image).shape == (2, 6, 7, 5)


def test_a_wide_image_has_wide_maps():
    assert Layout.of_map(torch.rand(2, 8, 4, 8), aspect=0.5).kind == "as_is"
    assert Layout.of_map(torch.rand(2, 4, 8, 6), aspect=0.5).kind == "nhwc"


def test_what_has_not_the_proportions_of_the_image_is_no_map():
    assert Layout.of_map(torch.rand(2, 3, 197, 64)) is None
    assert Layout.of_map(torch.rand(2, 10)) is None
    assert Layout.of_map(torch.rand(2, 3, 4, 4, 4)) is None


@pytest.mark.parametrize("prefix", [0, 1, 2, 5])
def test_tokens_become_their_grid_without_the_prefix(prefix):
    tokens = torch.rand(2, prefix + 9, 4)
    spatial = Layout.of_map(tokens, prefix=prefix).apply(tokens)
    assert spatial.shape == (2, 4, 3, 3)
    for row in range(3):
        for column in range(3):
            assert torch.equal(spatial[:, :, row, column], tokens[:, prefix + 3 * row + column])


def test_the_prefix_is_guessed_where_it_is_unknown():
    assert Layout.of_map(torch.rand(2, 198, 4)) == Layout("tokens", 2, (14, 14))


def test_a_block_before_the_class_token_has_no_prefix():
    assert Layout.of_map(torch.rand(2, 196, 4), prefix=1) == Layout("tokens", 0, (14, 14))


def test_tokens_that_fill_no_grid_are_no_map():
    assert Layout.of_map(torch.rand(2, 200, 4), prefix=1) is None
    assert Layout.of_map(torch.rand(2, 255, 4)) is None


def test_a_vector_is_pooled_over_its_places():
    image = torch.rand(2, 5, 3, 4)
    assert torch.allclose(Layout("vector").apply(image), image.mean((2, 3)))
    assert torch.allclose(Layout("vector", channels_last=True).apply(image), image.mean((1, 2)))
    tokens = torch.rand(2, 7, 5)
    assert torch.allclose(Layout("vector", channels_last=True).apply(tokens), tokens.mean(1))


def test_a_vector_that_is_one_already_stays():
    vector = torch.rand(2, 5)
    assert Layout("vector").apply(vector) is vector


def numbered(*shape):
    return torch.arange(torch.Size(shape).numel()).reshape(shape)


def test_a_layout_is_learnt_from_where_each_value_goes():
    image = numbered(2, 3, 4, 5)
    assert Layout.of_places(image, image) == Layout()
    assert Layout.of_places(image, image.permute(0, 3, 1, 2)) == Layout("nhwc")
    assert Layout.of_places(image, image.flip(2)) is None
    tokens = numbered(2, 7, 5)
    assert Layout.of_places(tokens, tokens[:, 1:].transpose(1, 2).reshape(2, 5, 2, 3)) == Layout("tokens", 1, (2, 3))
    assert Layout.of_places(tokens, tokens[:, :6].transpose(1, 2).reshape(2, 5, 2, 3)) is not None
    assert Layout.of_places(tokens, tokens.flip(0)[:, 1:].transpose(1, 2).reshape(2, 5, 2, 3)) is None


def test_tokens_in_windows_are_put_back_into_rows():
    image = torch.rand(2, 5, 4, 4)
    windows = image.reshape(2, 5, 2, 2, 2, 2).permute(0, 2, 4, 3, 5, 1).reshape(2, 16, 5)
    tokens = torch.cat([torch.rand(2, 1, 5), windows], 1)
    places = numbered(2, 17, 5)
    moved = places[:, 1:].reshape(2, 2, 2, 2, 2, 5).permute(0, 5, 1, 3, 2, 4).reshape(2, 5, 4, 4)
    layout = Layout.of_places(places, moved)
    assert layout.order
    assert torch.equal(layout.apply(tokens), image)
    with torch.inference_mode():
        layout.apply(tokens)
    layout.apply(tokens.requires_grad_()).square().sum().backward()
    assert torch.equal(tokens.grad[:, 1:], 2 * windows)


def test_the_logits_are_found_in_any_output_as_float32_and_their_absence_is_said():
    half = torch.ones(2, 3, dtype=torch.bfloat16)
    for output in (half, (half, None), {"aux": torch.zeros(2, 9), "out": half}, {"loss": torch.zeros(()), "logits": half}):
        found = logits_of(output)
        assert found.dtype == torch.float32
        assert torch.equal(found, torch.ones(2, 3))
    with pytest.raises(TapError, match="returned a dict without a tensor"):
        logits_of({"out": None})
