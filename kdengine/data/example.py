"""A small folder of images to try things on, made from the digits and as untidy as folders of images are."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from kdengine.data.load import load_data
from kdengine.errors import DataError

__all__ = ["write_example"]

CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SIZES = ((32, 32), (40, 32), (32, 40), (48, 48), (64, 36))
"""Columns and rows of the images, in turn."""
MODES = ("RGB", "L", "RGB", "RGBA", "RGB", "RGB", "RGB")
"""Their kinds, in turn; of another length, so that every size comes with every kind."""


def write_example(folder: str | Path, bad: bool = False) -> int:
    """Write the 1,797 handwritten digits as PNG files, with one folder per class: ``zero`` to ``nine``.

    Sizes are mixed, and some images are grey or have an alpha channel. There is no split.

    Args:
        folder: where to; created unless it exists and is empty.
        bad: whether to add a file that cannot be read.

    Returns:
        the number of files.

    Raises:
        DataError: the folder is not empty.
    """
    root = Path(folder).expanduser()
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise DataError(f"'{folder}' is not empty. Choose a new folder for the example.")
    for name in CLASSES:
        (root / name).mkdir(parents=True)
    data, count = load_data("digits"), 0
    for split in (data.train, data.test):
        assert split.images is not None
        for pixels, label in zip(split.images, split.labels.tolist(), strict=True):
            image = Image.fromarray(pixels.permute(1, 2, 0).numpy()).convert(MODES[count % len(MODES)])
            image.resize(SIZES[count % len(SIZES)]).save(root / CLASSES[label] / f"{count:04}.png")
            count += 1
    if bad:
        whole = (root / CLASSES[0] / "0000.png").read_bytes()
        (root / CLASSES[3] / "damaged.png").write_bytes(whole[: len(whole) // 2])
    return count + bad
