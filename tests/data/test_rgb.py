import io
import warnings

import numpy as np
import pytest
from PIL import Image

from kdengine.data.decoding import pixels
from kdengine.data.rgb import as_rgb
from kdengine.errors import DataError


def saved(values, kind):
    """An image as it is read from a file."""
    file = io.BytesIO()
    Image.fromarray(values).save(file, kind)
    return Image.open(file)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_to_eight(kind):
    deep = saved(np.array([[0, 256, 32768], [65535, 128, 129]], dtype=np.uint16), kind)
    assert np.asarray(as_rgb(deep))[..., 1].tolist() == [[0, 1, 128], [255, 0, 1]]


@pytest.mark.parametrize("values", [np.array([[0, 9000]], np.int32), np.array([[0.1, 0.9]], np.float32)])
def test_numbers_of_no_known_range_are_refused(values):
    with pytest.raises(DataError, match=r"Image 0 cannot be read: its pixels are numbers from 0\S* to .*8 or 16 bits"):
        pixels([(saved(values, "TIFF"), 0)], 0, 2, 1)
    assert np.asarray(as_rgb(saved((values > 0.5).astype(values.dtype) * 200, "TIFF")))[0, 1, 0] == 200


def test_transparent_colours_of_a_palette_are_dropped_without_a_warning():
    palette = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3)).convert("P")
    clear = palette.copy()
    clear.info["transparency"] = bytes(range(6))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert as_rgb(clear).tobytes() == palette.convert("RGB").tobytes()
    assert "transparency" in clear.info, "the caller's image stays as it was"
