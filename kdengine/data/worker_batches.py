"""Batches of images that are too many for memory: worker processes read and transform them."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from kdengine.data.batches import CPU, Batch, generator_for
from kdengine.data.decoding import opened, reason
from kdengine.errors import DataError
from kdengine.seeds import drawing_from

__all__ = ["StreamBatches", "begun"]

Sample = tuple[Tensor, int, int]
_FIX = (
    "Often memory is full, or shared memory ('df -h /dev/shm'; in a container, '--shm-size'): lower train.workers or "
    "train.batch_size. With train.workers=0 the main process reads the images itself, and shows the reason."
)


@dataclass(frozen=True)
class StreamBatches:
    """Batches of images that worker processes read and transform.

    Attributes:
        items: sequence of (PIL image, label).
        transform: PIL image -> normalised tensor [C, H, W].
        batch_size: images in a batch; the last one may be smaller.
        seed: seed of order and augmentation; None keeps the order.
        workers: reading processes; with 0, the images are read as they are asked for.
        device: where batches go.
        labels: what the labels of the items have to be, int64 [N]; None for whatever they are.
    """

    items: Sequence[Any]
    transform: Callable[[Image.Image], Tensor]
    batch_size: int
    seed: int | None = None
    workers: int = 0
    device: torch.device = CPU
    labels: Tensor | None = None

    def __len__(self) -> int:
        return -(-len(self.items) // self.batch_size)

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, read ahead by the workers; those before ``start`` are not read.

        Raises:
            DataError: an image cannot be read or has another label than it should, or a worker died.
        """
        generator = generator_for(self.seed or 0, number)
        seed = int(torch.randint(2**62, (), generator=generator))
        left = self._order(generator)[start:]
        if not left:
            return
        loader = DataLoader(
            _Indexed(self.items, self.transform, seed, self.labels),
            batch_sampler=left,
            num_workers=self.workers,
            collate_fn=_collate,
            worker_init_fn=_leave_interrupts_to_the_main_process,
            generator=generator,  # or torch would draw from the global state
            pin_memory=self.device.type == "cuda",
        )
        for read in _read(loader) if self.workers else loader:
            if isinstance(read, DataError):
                raise read
            x, y, index = read
            yield Batch(
                x.to(self.device, non_blocking=True),
                y.to(self.device, non_blocking=True),
                index.to(self.device, non_blocking=True),
            )

    def _order(self, random: torch.Generator) -> list[list[int]]:
        """The places of the images of each batch, as a shuffling ``DataLoader`` with this generator orders them."""
        order = torch.arange(len(self.items))
        if self.seed is not None:
            torch.empty((), dtype=torch.int64).random_(generator=random)  # what a loader draws first, for its workers
            order = torch.randperm(len(self.items), generator=random)
        return [places.tolist() for places in torch.split(order, self.batch_size)]


class _Indexed(Dataset[Sample | DataError]):
    """Gives (transformed image, label, index) of each item.

    What is drawn for an image depends on the seed and the index alone, however many workers there are. A fault is given
    too, and not raised: torch would put the worker's whole traceback into its message.
    """

    def __init__(
        self, items: Sequence[Any], transform: Callable[[Image.Image], Tensor], seed: int, labels: Tensor | None
    ) -> None:
        self.items = items
        self.transform = transform
        self.seed = seed
        self.labels = labels

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Sample | DataError:
        try:
            with drawing_from((self.seed + index) % 2**63):
                image, label = opened(self.items, index, self.labels)
                return self.transform(image), label, index
        except DataError as error:
            return error
        except Exception as error:
            fault = DataError(f"Image {index} cannot be transformed: {reason(error)}.")
            fault.__cause__ = error
            return fault


def _collate(samples: Sequence[Sample | DataError]) -> Any:
    """Images [B, C, H, W], labels [B] and indices [B]; or the fault of the first image that has one."""
    fault = next((sample for sample in samples if isinstance(sample, DataError)), None)
    try:
        return fault or default_collate(list(samples))
    except Exception as error:  # shared memory may be full
        return DataError(f"A batch cannot be put together: {reason(error)}. {_FIX}")


def _read(loader: DataLoader[Any]) -> Iterator[Any]:
    """What the workers of a loader give.

    Torch's iterator has no name here, and nothing that is raised keeps torch's frames: so it is gone, and its workers with
    it, as soon as nobody reads on.
    """
    stopped: BaseException
    try:
        yield from begun(loader)
        return
    except (RuntimeError, OSError) as error:
        said = reason(error).removeprefix("RuntimeError: ")
        stopped = DataError(f"A process that reads images has died: {said}. {_FIX}")
    except KeyboardInterrupt as interrupt:
        interrupt.__context__ = interrupt.__cause__ = None
        stopped = interrupt.with_traceback(None)
    raise stopped


def begun(loader: DataLoader[Any]) -> Iterator[Any]:
    """The iterator of a loader, without the signal handler that torch installs with it.

    For a worker that died, that would raise wherever the main thread happens to be, such as in the middle of a lane's step;
    without it, the same is raised where the next batch is waited for, within seconds.
    """
    if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
        return iter(loader)  # torch installs none
    before = signal.getsignal(signal.SIGCHLD)
    try:
        return iter(loader)
    finally:
        signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)


def _leave_interrupts_to_the_main_process(worker: int) -> None:
    """An interrupt from the keyboard reaches every process; when to stop is for the main one to decide."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
