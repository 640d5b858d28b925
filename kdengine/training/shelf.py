"""What one teacher showed in the batches of one seed, kept on disk: shown again instead of running the teacher."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from kdengine.storage.slots import Damaged, SlotFile
from kdengine.storage.store_folder import StoreFolder
from kdengine.taps import Trace
from kdengine.taps.anatomy import TapPoint
from kdengine.training.lossy import Exact

__all__ = ["LOGITS", "KeptTap", "Place", "Shelf", "Space", "is_kept_by", "place_name", "process_name"]

log = logging.getLogger(__name__)
Run = Callable[[Mapping[str, TapPoint]], Trace]
"""Runs the teacher on the images in question and records points."""
KEPT = "kept:"
"""Before the names of points that are recorded to be kept."""
LOGITS = TapPoint("", "out", 0, overwritten=False)
EXACT = Exact()


@dataclass(frozen=True)
class Place:
    """Which batch it is.

    Attributes:
        epoch: from 0.
        number: within the epoch, from 0.
        view: which view of its images.
        index: positions of its images in the data, int64 [B], in the memory of the host, if known.
    """

    epoch: int
    number: int
    view: int = 0
    index: Tensor | None = None

    def of_view(self, view: int) -> Place:
        """The same batch in another view."""
        return replace(self, view=view)

    @cached_property
    def mark(self) -> int:
        """A checksum of the index; 0 if that is not known."""
        if self.index is None:
            return 0
        return zlib.crc32(self.index.contiguous().numpy().data)


@dataclass(frozen=True)
class KeptTap:
    """A tap that a store keeps.

    Attributes:
        name: of the tap.
        point: in the teacher.
        shape: of the tensor of one image.
        dtype: what its values are kept as.
    """

    name: str
    point: TapPoint
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def values(self) -> int:
        """Values of one image."""
        return torch.Size(self.shape).numel()


@dataclass
class Space:
    """How much more may be written; shared by all shelves of a run.

    Attributes:
        bytes: None for as much as there is.
    """

    bytes: int | None = None
    is_open: bool = True

    def take(self, wanted: int) -> bool:
        """Whether so many bytes may be written now."""
        if self.is_open and self.bytes is not None:
            self.bytes -= wanted
            if self.bytes < 0:
                self.close("its budget is used up (teacher_store.budget)")
        return self.is_open

    def close(self, reason: str) -> None:
        """Write no more, and say so; the run goes on without."""
        if self.is_open:
            self.is_open = False
            log.warning("The teacher store keeps no further batches: %s. The teacher runs for the rest", reason)


class Shelf:
    """The batches of one seed as one teacher showed them.

    Args:
        folder: the store.
        teacher: key of the teacher in the store.
        seed: of the batches.
        taps: what is kept.
        images: most images of a batch in this process.
        process: which process this is, and of how many: ``0-of-1``.
        space: how much may be written.
        codec: how tensors are kept.
    """

    def __init__(
        self,
        folder: StoreFolder,
        teacher: str,
        seed: int,
        taps: Sequence[KeptTap],
        images: int,
        process: str,
        space: Space,
        codec: Exact = EXACT,
    ) -> None:
        self.taps = {tap.point: tap for tap in taps}
        self.space = space
        self._folder, self._teacher, self._seed = folder, teacher, seed
        self._images, self._process, self._codec = images, process, codec
        self._damaged: set[tuple[SlotFile, int]] = set()
        self._said: set[str] = set()

    @property
    def points(self) -> dict[str, TapPoint]:
        """All that is kept, by name."""
        return {tap.name: point for point, tap in self.taps.items()}

    def show(self, images: Tensor, points: Mapping[str, TapPoint], place: Place, run: Run) -> Trace:
        """What the teacher shows of a batch: read if all of it is here, else recorded, and kept.

        Args:
            images: [B, C, H, W].
            points: name -> point to show.
            place: which batch.
            run: runs the teacher.
        """
        kept = self._kept(points, place, images.device)
        if kept is None:
            return self._recorded(images, points, place, run)
        logits = next((kept[name] for name, point in points.items() if not point.path), None)
        return Trace(kept, logits, lambda: self._logits(images, place, run), inputs=images)

    def lacks(self, place: Place) -> list[KeptTap]:
        """The taps of a batch that were not written, or are known to be damaged."""
        files = {tap: self.file(tap, place) for tap in self.taps.values()}
        return [tap for tap, file in files.items() if not file.has(place.number) or (file, place.number) in self._damaged]

    def file(self, tap: KeptTap, place: Place) -> SlotFile:
        """The file in which a tap of a batch lies."""
        name = place_name(place.epoch, place.view, self._process)
        path = self._folder.epoch_file(self._teacher, self._seed, name, tap.name)
        return SlotFile(path, tap.dtype, self._images * tap.values)

    def _kept(self, points: Mapping[str, TapPoint], place: Place, device: torch.device) -> dict[str, Tensor] | None:
        """All points of a batch as they were kept; None if any of them was not."""
        found: dict[TapPoint, Tensor] = {}
        for point in points.values():
            if point not in found:
                tap = self.taps.get(point)
                tensor = None if tap is None else self._read(tap, place, device)
                if tensor is None:
                    return None
                found[point] = self._codec.decode(tensor)
        return {name: found[point] for name, point in points.items()}

    def _recorded(self, images: Tensor, points: Mapping[str, TapPoint], place: Place, run: Run) -> Trace:
        """Run the teacher on a batch, and keep what is not kept yet."""
        lacking = self.lacks(place) if self.space.is_open else []
        shown = run({**{f"{KEPT}{tap.name}": tap.point for tap in lacking}, **points})
        for tap in lacking:
            self._write(tap, self._codec.encode(shown[f"{KEPT}{tap.name}"]), place)
        seen = {name: self._as_kept(point, shown[name]) for name, point in points.items()}
        logits = next((seen[name] for name, point in points.items() if not point.path), None)
        return Trace(seen, logits, lambda: self._as_kept(LOGITS, shown.logits), inputs=images)

    def _as_kept(self, point: TapPoint, tensor: Tensor) -> Tensor:
        """A tensor as it will be read: lanes see the same, whether the teacher ran or not."""
        return self._codec.decode(self._codec.encode(tensor)) if point in self.taps else tensor

    def _logits(self, images: Tensor, place: Place, run: Run) -> Tensor:
        """Logits for a method that reads them without a tap."""
        return self.show(images, {"logits": LOGITS}, place, run).logits

    def _read(self, tap: KeptTap, place: Place, device: torch.device) -> Tensor | None:
        file = self.file(tap, place)
        try:
            return file.read(place.number, place.mark, device)
        except Damaged:
            self._damaged.add((file, place.number))
            self._say("A batch in '%s' is damaged, or is of other images: the teacher runs, and it is written anew", file.path)
        except OSError as error:
            self._say("A batch in '%s' cannot be read: %s. The teacher runs", file.path, error.strerror)
        return None

    def _write(self, tap: KeptTap, tensor: Tensor, place: Place) -> None:
        """Keep a tensor, unless that would change it, or there is no more space."""
        file = self.file(tap, place)
        fits = tensor.dtype == torch.float32 and tuple(tensor.shape[1:]) == tap.shape and len(tensor) <= self._images
        if not fits or not is_kept_by(tap.dtype, tensor):
            kind = f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
            self._say("The teacher store does not keep what '%s' shows of some batches, %s: the teacher runs", tap.name, kind)
            return
        try:
            if self.space.take(file.slot):
                file.write(place.number, tensor, place.mark)
                self._damaged.discard((file, place.number))
        except OSError as error:
            self.space.close(f"'{file.path}' cannot be written ({error.strerror})")

    def _say(self, text: str, *values: object) -> None:
        """Warn once of each kind of trouble."""
        if text not in self._said:
            self._said.add(text)
            log.warning(text, *values)


def place_name(epoch: int, view: int, process: str) -> str:
    """The folder of an epoch, counted from 0, in a view, as a process sees it."""
    return f"epoch-{epoch}.view-{view}.process-{process}"


def process_name(rank: int, processes: int) -> str:
    """What the files of one of several processes are called by: each sees a part of every batch."""
    return f"{rank}-of-{processes}"


def is_kept_by(dtype: torch.dtype, tensor: Tensor) -> bool:
    """Whether a type of numbers can hold the values of a tensor, float32, without changing any."""
    return dtype == torch.float32 or torch.equal(tensor.to(dtype).float(), tensor)
