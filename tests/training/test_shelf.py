"""One teacher and its shelf: what is kept is read, what is not is recorded, and nothing changes a bit."""

import errno
import logging

import pytest
import torch

from kdengine import Anatomy
from kdengine.config.settings import TrainSettings
from kdengine.storage.store_folder import StoreFolder
from kdengine.testing import tiny_pair
from kdengine.training.lossy import Exact, Half, TopK
from kdengine.training.runtime import Runtime
from kdengine.training.shelf import LOGITS, KeptTap, Place, Shelf, Space
from kdengine.training.teacher import FrozenTeacher

IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
INDEX = torch.tensor([5, 2, 9, 7])
UNFOLDED = TrainSettings(fold_teacher=False)
"""Folding would run the model to see whether it is the same network, and then a copy of it."""


class Kept:
    """A frozen teacher whose forwards are counted, with a shelf in a folder."""

    def __init__(self, folder, names=("logits", "embedding"), precision="fp32", codec=None, space=None, images=4):
        self.model = tiny_pair()[0]
        self.anatomy = Anatomy.of(self.model, (3, 32, 32))
        self.teacher = FrozenTeacher(self.model, Runtime("cpu", precision), UNFOLDED)
        self.taps = [self.tap(name, codec, precision) for name in names]
        self.space = space or Space()
        self.shelf = Shelf(StoreFolder(folder), "t", 0, self.taps, images, "0-of-1", self.space, codec or Exact())
        self.teacher.shelf = self.shelf
        self.forwards, self.classified = [], []
        self.model.register_forward_pre_hook(lambda *_: self.forwards.append(1))
        self.model.fc.register_forward_hook(lambda *_: self.classified.append(1))

    def tap(self, name, codec, precision):
        (point,) = self.anatomy.resolve(name).values()
        shape = tuple(self.anatomy.tensor(point).shape[1:])
        shape = (2 * codec.count + 1,) if isinstance(codec, TopK) else shape
        dtype = torch.float16 if isinstance(codec, Half) else torch.bfloat16 if precision == "bf16" else torch.float32
        return KeptTap(name, point, shape, dtype)

    def trace(self, *names, place=None, images=IMAGES):
        points = self.anatomy.resolve_all(names)
        return self.teacher.trace(images, points, place=place or Place(0, 0, index=INDEX))

    def forgets(self):
        """How often the model ran since the last call."""
        count = len(self.forwards)
        self.forwards.clear(), self.classified.clear()
        return count


def without(*names, precision="fp32"):
    model = tiny_pair()[0]
    points = Anatomy.of(model, (3, 32, 32)).resolve_all(names)
    return FrozenTeacher(model, Runtime("cpu", precision), UNFOLDED).trace(IMAGES, points)


def alike(one, other, *names):
    for name in names:
        assert torch.equal(one[name], other[name])
        assert one[name].stride() == other[name].stride()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_is_kept_is_read_with_every_bit_and_the_teacher_does_not_run(precision, tmp_path):
    names = ("embedding", "logits", "stage2")
    kept, plain = Kept(tmp_path, names, precision), without(*names, precision=precision)
    alike(kept.trace(*names), plain, *names)
    assert kept.forgets() == 1
    kept.model.forward = None  # which cannot be called
    alike(kept.trace(*names), plain, *names)
    assert torch.equal(kept.trace("embedding").logits, plain.logits), "though no tap names them"
    again = Kept(tmp_path, names, precision)
    alike(again.trace("stage2", "embedding"), plain, "stage2", "embedding")
    assert again.forgets() == 0
    assert kept.trace("logits").input is IMAGES


def test_a_tap_that_is_not_kept_makes_the_teacher_run_as_deep_as_is_needed(tmp_path):
    kept = Kept(tmp_path)
    kept.trace("stage1")
    assert (len(kept.forwards), len(kept.classified)) == (1, 1), "logits were not kept yet"
    kept.forgets()
    trace = kept.trace("stage1", "embedding")
    assert (len(kept.forwards), len(kept.classified)) == (1, 0), "now they are"
    alike(trace, without("stage1", "embedding"), "stage1", "embedding")
    assert torch.equal(trace.logits, without("logits").logits)


def test_taps_are_the_same_whatever_they_are_called(tmp_path):
    kept = Kept(tmp_path)
    kept.trace("logits")
    kept.forgets()
    points = {"mine": LOGITS, "yours": kept.anatomy.canonical["embedding"]}
    kept.teacher.trace(IMAGES, points, place=Place(0, 0, index=INDEX))
    assert kept.forgets() == 0


def test_batches_epochs_views_and_images_are_told_apart(tmp_path):
    kept = Kept(tmp_path)
    kept.trace("logits")
    kept.forgets()
    others = [Place(0, 1), Place(1, 0), Place(0, 0, view=1), Place(0, 0, index=INDEX + 1)]
    for place in others:
        kept.trace("logits", place=place)
    assert kept.forgets() == len(others)
    assert Place(3, 4, index=INDEX).of_view(1) == Place(3, 4, 1, INDEX)


def test_outside_of_the_training_nothing_is_kept(tmp_path):
    kept = Kept(tmp_path / "store")
    kept.teacher.trace(IMAGES, {"logits": LOGITS})
    gradients = kept.teacher.trace(IMAGES, {"logits": LOGITS}, input_gradients=True, place=Place(0, 0))
    assert gradients.logits.requires_grad
    assert not (tmp_path / "store").exists()


def test_a_damaged_batch_is_made_anew_and_that_is_said_once(tmp_path, caplog):
    kept, plain = Kept(tmp_path), without("logits", "embedding")
    for number in (0, 1):
        kept.trace("logits", place=Place(0, number, index=INDEX))
    (file,) = tmp_path.rglob("logits")
    file.write_bytes(bytes(byte ^ 255 if place % 320 == 200 else byte for place, byte in enumerate(file.read_bytes())))
    kept.forgets()
    with caplog.at_level(logging.WARNING):
        for number in (0, 1):
            alike(kept.trace("logits", "embedding", place=Place(0, number, index=INDEX)), plain, "logits", "embedding")
    assert (kept.forgets(), caplog.text.count("is damaged")) == (2, 1)
    alike(kept.trace("logits"), plain, "logits")
    assert kept.forgets() == 0


@pytest.mark.parametrize("codec", [Half(), TopK(3, 10)], ids=["half", "top"])
def test_with_a_lossy_store_lanes_see_the_same_whether_the_teacher_ran_or_not(codec, tmp_path):
    kept, exact = Kept(tmp_path, ("logits",), codec=codec), without("logits")
    first, second = kept.trace("logits"), kept.trace("logits")
    assert kept.forgets() == 1
    assert torch.equal(first.logits, second.logits)
    assert not torch.equal(first.logits, exact.logits)
    full = Kept(tmp_path / "full", ("logits",), codec=codec, space=Space(0))
    assert torch.equal(full.trace("logits").logits, second.logits), "also where nothing can be kept"
    lazy = Kept(tmp_path / "lazy", ("logits",), codec=codec, space=Space(0))
    assert torch.equal(lazy.trace("stage1").logits, second.logits)


def test_when_the_budget_is_used_up_the_run_goes_on_and_says_so_once(tmp_path, caplog):
    kept, plain = Kept(tmp_path, space=Space(3000)), without("logits")
    with caplog.at_level(logging.WARNING):
        for number in range(6):
            alike(kept.trace("logits", place=Place(0, number)), plain, "logits")
    assert caplog.text.count("keeps no further batches: its budget is used up") == 1
    assert sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()) <= 3000
    kept.forgets()
    kept.trace("logits", place=Place(0, 0))
    assert kept.forgets() == 0, "what was kept is read"


def test_a_full_disk_ends_the_keeping_and_not_the_run(tmp_path, caplog, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("kdengine.storage.slots._write_at", full)
    kept = Kept(tmp_path)
    with caplog.at_level(logging.WARNING):
        for number in range(3):
            alike(kept.trace("logits", place=Place(0, number)), without("logits"), "logits")
    assert caplog.text.count("No space left on device") == 1


def test_what_its_type_cannot_hold_is_not_kept(tmp_path, caplog):
    """bfloat16 is chosen because what it was tried on fits; should that ever change, exactness goes first."""
    kept = Kept(tmp_path, ("embedding",), precision="bf16")
    kept.teacher.runtime = Runtime("cpu", "fp32")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            alike(kept.trace("embedding"), without("embedding"), "embedding")
    assert kept.forgets() == 2
    assert caplog.text.count("does not keep what 'embedding' shows") == 1


def test_a_smaller_last_batch_fits(tmp_path):
    kept = Kept(tmp_path)
    for _ in range(2):
        shown = kept.trace("embedding", images=IMAGES[:1], place=Place(0, 9, index=INDEX[:1]))
    assert (kept.forgets(), shown["embedding"].shape[0]) == (1, 1)
    kept.trace("embedding", images=IMAGES.repeat(2, 1, 1, 1), place=Place(0, 8))
    assert kept.shelf.lacks(Place(0, 8)) == kept.taps, "a larger one than all should be is not kept"
