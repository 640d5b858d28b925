"""Batches of images that worker processes read: those that do not fit in memory, and those that are slow to augment."""

from __future__ import annotations

import signal
import sys
import threading
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from kdengine.data.batches import CPU, ImageBatches, generator_for
from kdengine.data.decoding import WHOLE, Fitting, pixels, pixels_and_mask, reason
from kdengine.data.masks import joined
from kdengine.errors import DataError
from kdengine.seeds import drawing_from

__all__ = ["HeldBatches", "StreamBatches", "WorkerBatches", "begun"]

_FIX = (
    "This often means that memory is full, or shared memory ('df -h /dev/shm'; in a container, raise '--shm-size'): lower "
    "train.workers or train.batch_size. With train.workers=0 the main process reads the images itself and shows the cause."
)


@dataclass(frozen=True)
class WorkerBatches(ImageBatches):
    """Batches of images that worker processes read and augment ahead, one by one; this process does the rest.

    Attributes:
        workers: processes that read ahead; with 0, this process reads each batch when it is asked for.
    """

    workers: int = field(default=0, kw_only=True)

    @abstractmethod
    def fetch(self, index: int) -> Tensor:
        """One image, uint8 [C, H, W], or with its mask [C + 1, H, W].

        Raises:
            DataError: it cannot be read.
        """

    def read(self, batches: Sequence[Tensor], epoch: int) -> Iterator[Tensor]:
        """The images of some batches, augmented, uint8 [B, C, H, W] each; no other image is read.

        Raises:
            DataError: an image cannot be read or has another label than it should, or a worker died.
        """
        if not batches:
            return
        own = generator_for(self.seed or 0, epoch)  # apart from the draws of order and augmentation
        seed = int(torch.randint(2**62, (), generator=own))
        loader = DataLoader(
            _Shown(self, epoch, seed),
            batch_sampler=[draws.tolist() for draws in batches],
            num_workers=self.workers,
            collate_fn=_collate,
            worker_init_fn=_leave_interrupts_to_the_main_process,
            generator=own,  # or torch would draw from the global state
            pin_memory=self.device.type == "cuda",
        )
        for images in _read(loader) if self.workers else loader:
            if isinstance(images, DataError):
                raise images
            yield images.to(self.device, non_blocking=True)


@dataclass(frozen=True)
class StreamBatches(WorkerBatches):
    """Batches of images that are decoded and resized as they are needed.

    Attributes:
        images: sequence of (PIL image, label), whose labels must be those of ``labels``; or of (PIL image, PIL mask).
        size: (H, W) that images are brought to.
        fitting: how.
        classes: number of classes that masks may show.
    """

    images: Sequence[Any]
    size: tuple[int, int] = field(kw_only=True)
    fitting: Fitting = field(default=WHOLE, kw_only=True)
    classes: int = field(default=0, kw_only=True)

    def fetch(self, index: int) -> Tensor:
        """One image, decoded, uint8 [3, H, W], or with its mask [4, H, W].

        Raises:
            DataError: it cannot be read or has another label than it should.
        """
        height, width = self.size
        if self.masked:
            image, mask = pixels_and_mask(self.images, index, width, height, self.classes, self.fitting)
            return joined(image[None], mask[None])[0]
        return pixels(self.images, index, width, height, self.labels, self.fitting)


@dataclass(frozen=True)
class HeldBatches(WorkerBatches):
    """Batches of images that are held in one tensor, ``images``: uint8 [N, C, H, W]; workers augment them.

    Masks are ``labels``, uint8 [N, H, W].
    """

    images: Tensor

    def fetch(self, index: int) -> Tensor:
        """One image, uint8 [C, H, W], or with its mask [C + 1, H, W]."""
        image = self.images[index]
        return joined(image[None], self.labels[index][None])[0] if self.masked else image


class _Shown(Dataset[Tensor | DataError]):
    """Gives each image as an epoch shows it, uint8 [C, H, W].

    What a data set of the user's own draws for an image depends on the seed and the draw alone, however many workers
    there are. A fault is returned, not raised: torch would put the worker's whole traceback into its message.
    """

    def __init__(self, batches: WorkerBatches, epoch: int, seed: int) -> None:
        self.batches = replace(batches, labels=batches.labels.cpu(), device=CPU)
        self.epoch = epoch
        self.seed = seed

    def __len__(self) -> int:
        return len(self.batches.images)

    def __getitem__(self, draw: int) -> Tensor | DataError:
        try:
            with drawing_from((self.seed + draw) % 2**63):
                image = self.batches.fetch(draw % len(self))
        except DataError as error:
            return error
        return self.batches.shown(image[None], torch.tensor([draw]), self.epoch)[0]


def _collate(samples: Sequence[Tensor | DataError]) -> Any:
    """Images [B, 3, H, W]; or the fault of the first image that has one."""
    fault = next((sample for sample in samples if isinstance(sample, DataError)), None)
    try:
        return fault or default_collate(list(samples))
    except Exception as error:  # such as full shared memory
        return DataError(f"A batch cannot be assembled: {reason(error)}. {_FIX}")


def _read(loader: DataLoader[Any]) -> Iterator[Any]:
    """The batches that a loader's workers read.

    No variable here holds torch's iterator, and no exception keeps torch's frames alive: so the iterator goes, and its workers
    with it, as soon as nobody reads on.
    """
    stopped: BaseException
    try:
        yield from begun(loader)
        return
    except (RuntimeError, OSError) as error:
        message = reason(error).removeprefix("RuntimeError: ")
        stopped = DataError(f"A process that reads images has died: {message}. {_FIX}")
    except KeyboardInterrupt as interrupt:
        interrupt.__context__ = interrupt.__cause__ = None
        stopped = interrupt.with_traceback(None)
    raise stopped


def begun(loader: DataLoader[Any]) -> Iterator[Any]:
    """The iterator of a loader, without the signal handler that torch installs along with it.

    When a worker dies, that handler raises wherever the main thread happens to be, such as in the middle of a lane's step.
    Without it, the same error is raised within seconds, where the next batch is waited for.
    """
    if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
        return iter(loader)  # torch installs none
    before = signal.getsignal(signal.SIGCHLD)
    try:
        return iter(loader)
    finally:
        signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)


def _leave_interrupts_to_the_main_process(worker: int) -> None:
    """A keyboard interrupt reaches every process, but the main one decides when to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
