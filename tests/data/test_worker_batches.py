import multiprocessing
import os
import random
import signal
import time
import traceback

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data._utils import signal_handling

from kdengine.config.settings import TrainSettings
from kdengine.data import worker_batches
from kdengine.data.augmentation import Augmentation
from kdengine.data.batches import MemoryBatches
from kdengine.data.decoding import decode
from kdengine.data.worker_batches import StreamBatches
from kdengine.errors import DataError


@pytest.fixture
def images():
    return torch.randint(0, 256, (23, 3, 8, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def order_of(batches, epoch):
    return torch.cat([batch.index for batch in batches.epoch(epoch)]).tolist()


def pixels_of(batches, epoch):
    return torch.cat([batch.x for batch in batches.epoch(epoch)])


def states():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


def augmentation(name):
    return Augmentation.of(TrainSettings(augment=name))


def stream(items, batch_size=5, labels=None, **changes):
    """Batches of items of 6 x 8 pixels whose label is their position modulo 7."""
    labels = torch.arange(len(items)) % 7 if labels is None else labels
    settings = {"augmentation": augmentation(changes.pop("augment", "crop-flip")), "size": (8, 6)} | changes
    return StreamBatches(items, labels, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3), batch_size, **settings)


@pytest.fixture
def items(images):
    return [(Image.fromarray(image.permute(1, 2, 0).numpy()), number % 7) for number, image in enumerate(images)]


def test_an_image_that_comes_again_in_an_epoch_is_augmented_anew_however_it_is_read(images, items):
    seldom = torch.tensor([1000.0, *[1.0] * 22])
    held = MemoryBatches(
        images, torch.arange(23) % 7, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3), 5, 0, augmentation("crop-flip"), weights=seldom
    )
    read = stream(items, seed=0, weights=seldom)
    order, pixels = torch.tensor(order_of(held, 1)), pixels_of(held, 1)
    again = pixels[order == 0]
    assert len(again) > 15
    assert len({image.numpy().tobytes() for image in again}) > 5  # of 3 x 3 windows, mirrored or not
    assert torch.equal(pixels, pixels_of(read, 1))
    rest = torch.cat([batch.x for batch in held.epoch(1, 2)])
    assert torch.equal(rest, pixels[10:])
    labels = torch.cat([batch.y for batch in held.epoch(1)])
    assert torch.equal(labels, order % 7)


def test_streamed_batches_are_the_same_with_and_without_workers(items):
    alone, helped = (stream(items, seed=0, workers=workers) for workers in (0, 2))
    assert order_of(alone, 2) == order_of(helped, 2)
    assert torch.equal(pixels_of(alone, 2), pixels_of(helped, 2))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("augment", ["none", "crop", "crop-flip"])
@pytest.mark.parametrize("seed", [None, 4])
def test_streamed_batches_are_those_of_the_same_images_in_memory(items, workers, augment, seed):
    items = [(image.resize((6 + number, 9)), label) for number, (image, label) in enumerate(items)]
    streamed = stream(items, seed=seed, workers=workers, augment=augment)
    held = MemoryBatches(
        decode(items, 6, 8), streamed.labels, streamed.mean, streamed.std, 5, seed=seed, augmentation=streamed.augmentation
    )
    for epoch, start in ((0, 0), (1, 0), (1, 3)):
        for one, other in zip(streamed.epoch(epoch, start), held.epoch(epoch, start), strict=True):
            assert all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("x", "y", "index"))
            assert one.x.stride() == other.x.stride(), "another memory layout would round convolutions differently"


def test_a_streamed_epoch_has_every_image_once_and_can_be_repeated(items):
    batches = stream(items, seed=0)
    first = list(batches.epoch(0))
    order = torch.cat([batch.index for batch in first])
    assert order.sort().values.tolist() == list(range(23))
    assert torch.equal(torch.cat([batch.y for batch in first]), order % 7)
    assert [len(batch.x) for batch in first] == [5, 5, 5, 5, 3]
    assert len(batches) == 5
    assert torch.equal(torch.cat([batch.x for batch in first]), pixels_of(batches, 0))
    assert order_of(batches, 0) != order_of(batches, 1)
    assert order_of(batches, 0) != order_of(stream(items, seed=1), 0)


def test_a_streamed_image_is_augmented_anew_in_every_epoch(items):
    batches = stream(items[:1], seed=0)
    assert not torch.equal(pixels_of(batches, 0), pixels_of(batches, 1))


def test_two_images_of_a_streamed_batch_are_augmented_on_their_own(items):
    batches = stream([items[0], items[0]], seed=0, labels=torch.zeros(2).long())
    first, second = pixels_of(batches, 0)
    assert not torch.equal(first, second)


def test_streamed_batches_without_a_seed_keep_the_order(items):
    assert order_of(stream(items), 4) == list(range(23))


def test_no_streamed_batch_draws_from_the_global_random_state(items):
    before = states()
    list(stream(items, seed=0).epoch(0))
    list(stream(Drawing(range(9)), seed=0, labels=torch.zeros(9).long(), size=(4, 4)).epoch(0))
    assert states() == before


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_an_error_of_the_data_that_names_it(items, workers, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")

    class Broken(list):
        def __getitem__(self, index):
            return (Image.open(tmp_path / "broken.png"), 0) if index == 3 else super().__getitem__(index)

    with pytest.raises(DataError, match="Image 3 cannot be read: cannot identify image file"):
        list(stream(Broken(items), workers=workers).epoch(0))


# what goes wrong ------------------------------------------------------------------------------------------------------


class Ending(list):
    """Items of which the one at place 3 does something else."""

    def __init__(self, items, end):
        super().__init__(items)
        self.end = end

    def __getitem__(self, index):
        return self.end() if index == 3 else super().__getitem__(index)


def divide():
    raise ZeroDivisionError("division\n by zero")


def failure(items, end, workers):
    with pytest.raises(DataError) as caught:
        list(stream(Ending(items, end), 2, workers=workers).epoch(0))
    assert multiprocessing.active_children() == [], "workers must be gone even while the error is held"
    return caught.value


@pytest.mark.parametrize("workers", [0, 2])
def test_whatever_a_data_set_of_the_user_raises_is_told_in_one_line(items, workers):
    assert str(failure(items, divide, workers)) == "Image 3 cannot be read: ZeroDivisionError: division by zero."


def test_without_workers_the_traceback_of_the_users_own_code_can_be_seen(items):
    cause = failure(items, divide, 0).__cause__
    assert [entry.name for entry in traceback.extract_tb(cause.__traceback__)][-1] == "divide"


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_without_pixels_is_told(items, workers):
    fault = failure(items, lambda: (Image.new("RGB", (0, 5)), 3), workers)
    assert str(fault) == "Image 3 cannot be used: it has 0 x 5 pixels. Leave it out."


@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_for_which_there_is_no_memory_is_told_with_what_to_do(items, workers, monkeypatch):
    def full(samples):
        raise RuntimeError("unable to open shared memory object")

    monkeypatch.setattr(worker_batches, "default_collate", full)
    fault = str(failure(items, lambda: items[3], workers))
    assert fault.startswith("A batch cannot be assembled: RuntimeError: unable to open shared memory object. This often means ")
    assert "lower train.workers or train.batch_size" in fault


@pytest.mark.parametrize("workers", [0, 1])
def test_images_of_different_sizes_are_brought_to_one(items, workers):
    batches = list(stream(Ending(items, lambda: (Image.new("RGB", (5, 5)), 3)), workers=workers).epoch(0))
    assert {tuple(batch.x.shape[1:]) for batch in batches} == {(3, 8, 6)}


@pytest.mark.sample(1)
@pytest.mark.parametrize("end", [lambda: os._exit(3), lambda: os.kill(os.getpid(), signal.SIGKILL)], ids=["left", "killed"])
def test_a_worker_that_dies_is_told_with_what_to_do(items, end):
    said = str(failure(items, end, 2))
    assert said.startswith("A process that reads images has died: DataLoader worker (pid")
    assert "With train.workers=0 the main process reads the images itself and shows the cause." in said
    assert "Traceback" not in said


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_with_another_label_than_its_split_says_is_refused(items, workers):
    labels = torch.arange(23) % 7
    batches = stream(items, seed=0, workers=workers, labels=labels)
    assert torch.equal(torch.cat([batch.y for batch in batches.epoch(0)]), labels[order_of(batches, 0)])
    labels[3] = 6
    with pytest.raises(DataError, match="Image 3 comes with the label 3, but its split says 6"):
        list(batches.epoch(0))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_grey_image_is_streamed_in_three_channels(workers):
    items, zeros, ones = [(Image.new("L", (4, 4), 51), 0)], (0.0,) * 3, (1.0,) * 3
    batches = StreamBatches(items, torch.zeros(1).long(), zeros, ones, 1, size=(4, 4), workers=workers)
    (batch,) = batches.epoch(0)
    assert batch.x.unique().tolist() == [pytest.approx(0.2)]
    assert batch.x.shape == (1, 3, 4, 4)


class Drawing(list):
    """Items that are drawn anew whenever they are read."""

    def __getitem__(self, index):
        draw = int(256 * random.random()), np.random.randint(256), int(torch.randint(256, ()))
        return Image.new("RGB", (4, 4), draw), 0


def test_a_data_set_that_draws_itself_is_repeatable_too():
    zeros = torch.zeros(9).long()
    settings = {"seed": 0, "labels": zeros, "size": (4, 4), "augment": "none"}
    batches = [stream(Drawing(range(9)), 2, workers=workers, **settings) for workers in (0, 0, 2)]
    first, *others = (pixels_of(each, 1) for each in batches)
    assert all(torch.equal(first, other) for other in others)
    assert is_the_rest(batches[0].epoch(1, 3), list(batches[0].epoch(1)))
    assert len(first.flatten(1).unique(dim=0)) == 9


@pytest.mark.parametrize("leave", ["closed", "forgotten", "interrupted", "failed"])
def test_no_worker_is_left_behind_by_who_stops_reading(items, leave):
    held = []

    def read():
        for _ in stream(items, 2, workers=2).epoch(0):
            assert len(multiprocessing.active_children()) == 2
            raise KeyboardInterrupt if leave == "interrupted" else ValueError

    if leave in ("closed", "forgotten"):
        epoch = stream(items, 2, workers=2).epoch(0)
        next(epoch)
        epoch.close() if leave == "closed" else held.append(epoch) or held.clear()
        del epoch
    else:
        with pytest.raises((KeyboardInterrupt, ValueError)) as caught:
            read()
        held.append(caught)
    assert multiprocessing.active_children() == []


def test_an_interrupt_while_waiting_for_a_worker_ends_the_workers_though_it_is_held(items):
    def interrupt():
        os.kill(os.getppid(), signal.SIGINT)
        time.sleep(1)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt) as held:
            list(stream(Ending(items, interrupt), 2, workers=1).epoch(0))
    finally:
        signal.signal(signal.SIGINT, before)
    assert multiprocessing.active_children() == []
    assert held.value.__context__ is None


def test_workers_leave_interrupts_to_the_main_process(items):
    def interrupted():
        os.kill(os.getpid(), signal.SIGINT)
        return Image.new("RGB", (6, 8)), 3

    batches = stream(Ending(items, interrupted), workers=2)
    assert [len(batch.y) for batch in batches.epoch(0)] == [5, 5, 5, 5, 3]


def test_reading_with_workers_installs_no_handler_of_signals(items, monkeypatch):
    monkeypatch.setattr(signal_handling, "_SIGCHLD_handler_set", False)  # torch does it once in a process
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    list(stream(items, workers=1).epoch(0))
    assert {number: signal.getsignal(number) for number in signal.valid_signals()} == before


# the rest of an epoch --------------------------------------------------------------------------------------------------


def is_the_rest(rest, whole):
    """Whether batches are the last ones of others, bit for bit."""
    rest = list(rest)
    pairs = list(zip(rest, whole[len(whole) - len(rest) :], strict=True))
    return all(torch.equal(getattr(one, name), getattr(other, name)) for one, other in pairs for name in ("x", "y", "index"))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("seed", [None, 4])
def test_a_streamed_epoch_begun_in_the_middle_goes_on_as_a_whole_one_does(items, workers, seed):
    batches = stream(items, seed=seed, workers=workers)
    whole = list(batches.epoch(1))
    for start in (0, 1, 4, 5):
        rest = list(batches.epoch(1, start))
        assert len(rest) == 5 - start
        assert is_the_rest(rest, whole)


def test_skipped_images_are_not_read(items):
    read = []

    class Watched(list):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    batches = stream(Watched(items), seed=0)
    rest = [place for batch in batches.epoch(0, 3) for place in batch.index.tolist()]
    assert len(rest) == 8
    assert read == rest
