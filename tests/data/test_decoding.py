import io

import numpy as np
import pytest
import torch
from PIL import Image

from kdengine.data.decoding import Fitting, decode, opened, pixels, reason
from kdengine.errors import DataError


@pytest.fixture
def array():
    return np.random.default_rng(0).integers(0, 256, (5, 6, 8, 3), dtype=np.uint8)


def test_images_are_decoded_in_order_channels_first(array):
    decoded = decode([(Image.fromarray(image), 0) for image in array], width=8, height=6)
    assert decoded.dtype == torch.uint8
    assert np.array_equal(decoded.numpy(), array.transpose(0, 3, 1, 2))


def test_a_grey_image_has_the_same_three_channels(array):
    grey = array[0, :, :, 0]
    assert np.array_equal(pixels([(Image.fromarray(grey), 0)], 0, 8, 6).numpy(), np.stack([grey] * 3))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_an_image_of_any_kind_becomes_red_green_and_blue(mode, array):
    assert pixels([(Image.fromarray(array[0]).convert(mode), 0)], 0, 8, 6).shape == (3, 6, 8)


def test_an_image_of_another_size_is_resized(array):
    constant = Image.new("RGB", (31, 17), (10, 20, 30))
    resized = pixels([(constant, 0)], 0, width=8, height=6)
    assert resized.shape == (3, 6, 8)
    assert resized.flatten(1).unique(dim=1).flatten().tolist() == [10, 20, 30]


def test_an_image_of_another_shape_keeps_its_aspect_ratio_and_its_middle():
    wide = np.zeros((8, 32, 3), np.uint8)
    wide[:, :8], wide[:, 8:24], wide[:, 24:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    for image in (wide, wide.transpose(1, 0, 2)):
        resized = pixels([(Image.fromarray(image), 0)], 0, width=4, height=4)
        assert resized.flatten(1).unique(dim=1).flatten().tolist() == [0, 255, 0]


@pytest.mark.parametrize(("width", "height"), [(48, 40), (40, 48), (80, 40), (20, 20), (10, 30)])
def test_resizing_is_covering_the_size_and_cropping_the_centre(width, height):
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    factor = max(10 / width, 10 / height)  # the covering size and the margins are whole numbers here
    covering = Image.fromarray(noise).resize((round(width * factor), round(height * factor)), Image.Resampling.BICUBIC)
    left, upper = (covering.width - 10) // 2, (covering.height - 10) // 2
    expected = np.asarray(covering)[upper : upper + 10, left : left + 10].transpose(2, 0, 1)
    assert np.abs(pixels([(Image.fromarray(noise), 0)], 0, 10, 10).numpy().astype(int) - expected).max() <= 1


def test_a_long_thin_image_does_not_become_a_huge_one():
    assert pixels([(Image.new("RGB", (100_000, 1), (1, 2, 3)), 0)], 0, 224, 224)[:, 5, 5].tolist() == [1, 2, 3]


def test_some_images_are_decoded_and_named_by_their_positions(array):
    items = [(Image.fromarray(image), number) for number, image in enumerate(array)]
    assert torch.equal(decode(items, 8, 6, torch.arange(5), [3, 1]), decode(items, 8, 6)[[3, 1]])
    with pytest.raises(DataError, match="Image 3 comes with the label 3, but its split says 4"):
        decode(items, 8, 6, torch.tensor([0, 1, 2, 4, 4]), [1, 3])


def test_an_image_that_cannot_be_read_is_named(array):
    whole = io.BytesIO()
    Image.fromarray(array[0]).save(whole, "png")
    items = [(Image.fromarray(array[0]), 0), (Image.open(io.BytesIO(whole.getvalue()[:60])), 1)]
    with pytest.raises(DataError, match="Image 1 cannot be read"):
        decode(items, 8, 6)


class Failing(list):
    """Items that cannot be had."""

    def __init__(self, error):
        super().__init__([0])
        self.error = error

    def __getitem__(self, index):
        raise self.error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError("image file is truncated"), "Image 0 cannot be read: image file is truncated."),
        (SyntaxError("broken PNG file"), "Image 0 cannot be read: SyntaxError: broken PNG file."),
        (KeyError("image"), "Image 0 cannot be read: KeyError: 'image'."),
        (ValueError("two\n  lines."), "Image 0 cannot be read: ValueError: two lines."),
        (RuntimeError(), "Image 0 cannot be read: RuntimeError."),
        (DataError("my own words"), "my own words"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_goes_wrong_with_an_item_is_said_in_one_line(error, said):
    with pytest.raises(DataError) as caught:
        opened(Failing(error), 0)
    assert str(caught.value) == said


def test_a_file_that_is_open_is_not_named_by_its_address():
    with pytest.raises(OSError, match="cannot identify") as caught:
        Image.open(io.BytesIO(b"no image"))
    assert reason(caught.value) == "cannot identify image file"


def test_items_must_have_the_labels_that_the_split_says(array):
    items = [(Image.fromarray(image), number % 3) for number, image in enumerate(array)]
    labels = torch.arange(5) % 3
    assert torch.equal(decode(items, 8, 6, labels), decode(items, 8, 6))
    labels[3] = 2
    with pytest.raises(DataError, match="Image 3 comes with the label 0, but its split says 2"):
        decode(items, 8, 6, labels)


@pytest.mark.parametrize(("columns", "rows", "crop"), [(56, 56, 0.5), (64, 32, 0.875), (28, 56, 1.0)])
def test_the_centre_of_an_image_is_kept_as_resizing_and_cropping_would(columns, rows, crop):
    """Against torchvision: the shorter side to size / crop, then the centre; sizes at which neither rounds."""
    ramp = np.linspace(0, 255, columns)[None, :, None] * np.linspace(0.2, 1, rows)[:, None, None] * np.ones(3)
    image = Image.fromarray(ramp.astype(np.uint8))
    fitted = np.asarray(Fitting(crop, "bilinear")(image, 14, 14), dtype=float)
    larger = 14 / crop / min(columns, rows)
    whole = image.resize((round(columns * larger), round(rows * larger)), Image.Resampling.BILINEAR)
    left, upper = (whole.width - 14) // 2, (whole.height - 14) // 2
    expected = np.asarray(whole.crop((left, upper, left + 14, upper + 14)), dtype=float)
    assert np.abs(fitted - expected).max() <= 2


def test_the_interpolation_is_the_one_named():
    image = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) * 4).convert("RGB")
    found = {name: np.asarray(Fitting(1.0, name)(image, 5, 5)).tobytes() for name in ("nearest", "bilinear", "bicubic")}
    assert len(set(found.values())) == 3
    assert found["nearest"] == np.asarray(image.resize((5, 5), Image.Resampling.NEAREST)).tobytes()
