"""Images that are read together with their masks, from whatever source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from PIL import Image

from kdengine.data.dataset import Split
from kdengine.data.decoding import SKIP_BAD, do_all, failures
from kdengine.data.masks import IGNORED, check_values, index_image
from kdengine.errors import DataError

__all__ = ["MaskedItems", "MaskedSource", "masked_splits"]


class MaskedSource(Protocol):
    """Images and masks that are opened when they are asked for; errors name what cannot be read."""

    def __len__(self) -> int:
        """How many there are."""

    def name(self, index: int) -> str:
        """What messages call an image, such as its path."""

    def image(self, index: int) -> Image.Image:
        """An image."""

    def mask(self, index: int) -> Image.Image:
        """Its mask."""


class MaskedItems(Sequence[Any]):
    """(PIL image, PIL mask of class indices, mode L) of a source; every fault names what has it.

    Args:
        source: of images and masks.
        ignore: value of the pixels that belong to no class, besides 255.
        classes: number of classes K; None to accept any values.
    """

    def __init__(self, source: MaskedSource, ignore: int = IGNORED, classes: int | None = None) -> None:
        self.source, self.ignore, self.classes = source, ignore, classes

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: Any) -> Any:
        image = self.source.image(index)
        return image, self.mask(index, image)

    def mask(self, index: int, image: Image.Image | None = None) -> Image.Image:
        """The mask alone; with its image, their proportions are compared.

        Raises:
            DataError: it is no mask, or has values that are no classes.
        """
        name, found = self.source.name(index), self.source.mask(index)
        try:
            found = index_image(found, found if image is None else image, name)
            if self.ignore != IGNORED:
                found = found.point([IGNORED if value == self.ignore else value for value in range(IGNORED + 1)])
            if self.classes is not None:
                check_values(found, self.classes, name)
        except DataError as error:
            error.add_note(SKIP_BAD)
            raise
        return found


def masked_splits(
    name: str, sources: Mapping[str, MaskedSource], ignore: Any, names: Sequence[str] | None, skip_bad: bool
) -> tuple[tuple[str, ...], dict[str, Split]]:
    """The class names of images with masks, and their splits.

    Args:
        name: what messages call the data.
        sources: split -> images and masks.
        ignore: value of the pixels that belong to no class, besides 255, as the user wrote it.
        names: the class names; without them, classes are numbered up to the largest value in any mask, all of which are read.
        skip_bad: whether masks that cannot be read are passed over here.

    Raises:
        DataError: the value is none, or a mask cannot be read.
    """
    if type(ignore) is not int or not 0 <= ignore <= IGNORED:
        raise DataError(
            f"'{name}': @ignore takes a value from 0 to {IGNORED}, which masks then give to no class, got {ignore!r}."
        )
    if not names:
        largest = max(_largest(MaskedItems(source, ignore), skip_bad) for source in sources.values())
        names = [str(value) for value in range(largest + 1)]
    items = {part: MaskedItems(source, ignore, len(names)) for part, source in sources.items()}
    splits = {part: Split(torch.zeros(len(of), dtype=torch.int64), items=of, masked=True) for part, of in items.items()}
    return tuple(names), splits


def _largest(items: MaskedItems, skip_bad: bool) -> int:
    """The largest class in any mask; at least 0."""
    found = [0] * len(items)

    def look(index: int) -> None:
        counts = _opened(items, index).histogram()
        found[index] = max((value for value, count in enumerate(counts[:IGNORED]) if count), default=0)

    if skip_bad:
        failures(look, range(len(items)))
    else:
        do_all(look, len(items))
    return max(found, default=0)


def _opened(items: MaskedItems, index: int) -> Image.Image:
    """A mask alone.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return items.mask(index)
    except OSError as error:
        unreadable = DataError(f"The mask of image {index} cannot be read: {error}.")
        for note in getattr(error, "__notes__", ()):
            unreadable.add_note(note)
        raise unreadable from error
