"""Two views of each image, as some methods need them."""

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, TensorDataset

from kdengine import Distiller, Engine, SettingsError
from kdengine.config.settings import Settings, TrainSettings
from kdengine.data.augmentation import Augmentation
from kdengine.data.batches import MemoryBatches, ShardedBatches
from kdengine.data.datamodule import DataModule
from kdengine.data.load import load_data
from kdengine.data.worker_batches import HeldBatches, StreamBatches

CPU = torch.device("cpu")
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
COUNT = 23
WEAK, STRONG = (Augmentation.of(TrainSettings(augment=name)) for name in ("crop-flip", "crop-flip+rand-augment"))


@pytest.fixture(scope="module")
def images():
    return torch.randint(0, 256, (COUNT, 3, 8, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def items(images):
    return [(Image.fromarray(image.permute(1, 2, 0).numpy()), number % 7) for number, image in enumerate(images)]


@pytest.fixture(scope="module")
def memory(images):
    def make(batch_size=5, seed=0, augmentation=WEAK, second=STRONG, **more):
        settings = {"batch_size": batch_size, "seed": seed, "augmentation": augmentation, "second": second, **more}
        return MemoryBatches(images, torch.arange(COUNT) % 7, MEAN, STD, **settings)

    return make


def by_position(batches, epoch=0, start=0):
    """Both views, each in the order of the data set: [N, 2, C, H, W], zero where an image did not come."""
    shown = torch.zeros(COUNT, 2, 3, 8, 6)
    for batch in batches.epoch(epoch, start):
        shown[batch.index] = torch.stack([batch.view(0), batch.view(1)], 1)
    return shown


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["held", "streamed"])
def test_views_are_the_same_bits_wherever_the_images_come_from(kind, workers, memory, images, items):
    held = memory()
    shared = {"batch_size": 5, "seed": 0, "augmentation": WEAK, "second": STRONG, "workers": workers}
    source, size = (items, {"size": (8, 6)}) if kind == "streamed" else (images, {})
    made = (StreamBatches if size else HeldBatches)(source, held.labels, MEAN, STD, **shared, **size)
    for epoch, start in ((0, 0), (1, 3)):
        for one, other in zip(made.epoch(epoch, start), held.epoch(epoch, start), strict=True):
            assert len(one.views) == 1
            pairs = [(getattr(one, name), getattr(other, name)) for name in ("x", "y", "index")]
            for mine, theirs in [*pairs, (one.views[0], other.views[0])]:
                assert torch.equal(mine, theirs)
                assert mine.stride() == theirs.stride(), "another memory layout would round convolutions differently"


def test_views_depend_on_seed_epoch_and_position_alone(memory):
    shown = by_position(memory())
    assert torch.equal(shown, by_position(memory(batch_size=7)))
    assert torch.equal(shown[by_position(memory(), start=3).abs().sum((1, 2, 3, 4)) > 0], _from_the_fourth(memory()))
    for other in (by_position(memory(), epoch=1), by_position(memory(seed=1))):
        assert all(not torch.equal(shown[:, view], other[:, view]) for view in (0, 1))


def _from_the_fourth(batches):
    shown = by_position(batches)
    come = torch.zeros(COUNT, dtype=torch.bool)
    for number, batch in enumerate(batches.epoch(0)):
        come[batch.index] = number >= 3
    return shown[come]


@pytest.mark.parametrize("augmentation", [WEAK, STRONG])
def test_the_views_of_an_image_differ_even_if_both_are_augmented_alike(augmentation, memory):
    shown = by_position(memory(augmentation=augmentation, second=augmentation))
    same = [torch.equal(*views) for views in shown]
    assert sum(same) < COUNT / 4  # two of them may be cropped and mirrored alike by chance


def test_a_second_view_changes_nothing_about_the_first(memory):
    for one, two in zip(memory(second=None).epoch(2), memory().epoch(2), strict=True):
        assert all(torch.equal(getattr(one, name), getattr(two, name)) for name in ("x", "y", "index"))
        assert (one.views, len(two.views)) == ((), 1)


def test_without_a_seed_both_views_are_the_image_as_it_is(memory):
    shown = by_position(memory(seed=None))
    assert torch.equal(shown[:, 0], shown[:, 1])
    assert torch.equal(shown[:, 0], by_position(memory(seed=None, augmentation=STRONG))[:, 0])


def test_each_process_gets_its_share_of_both_views(memory):
    whole = list(memory().epoch(1))
    for rank in (0, 1):
        for share, batch in zip(ShardedBatches(memory(), rank, 2).epoch(1), whole, strict=True):
            assert torch.equal(share.x, batch.x[rank::2])
            assert torch.equal(share.views[0], batch.views[0][rank::2])
    (last,) = list(ShardedBatches(memory(), 2, 4).epoch(1, 4))
    assert torch.equal(last.views[0], whole[-1].views[0]), "a last batch of 3 goes to each of 4 processes"


def module(data="digits@train=40@test=8", **train):
    settings = Settings.checked({"student": "resnet8", "data": "digits", "train": {"batch_size": 16, **train}})
    return DataModule.of_data(load_data(data), settings, CPU), settings


@pytest.mark.parametrize("shape", ["plain", "sharded", "balanced"])
def test_the_training_batches_come_in_as_many_views_as_are_asked_for(shape):
    data, settings = module(workers=0)
    data = data.suited(settings, torch.ones(40), None) if shape == "balanced" else data
    data = data.shared(1, 2) if shape == "sharded" else data
    assert data.training(1) is data.train, "without a second view nothing is made anew"
    assert data.training(2) is data.training(2)
    for one, two in zip(data.training(1).epoch(3), data.training(2).epoch(3), strict=True):
        assert torch.equal(one.x, two.x)
        assert torch.equal(one.index, two.index)
        assert one.views == ()
        assert two.views[0].shape == two.x.shape
        assert not torch.equal(two.views[0], two.x)


def test_workers_make_a_second_view_that_is_slow_to_make_and_no_other_bits():
    (alone, _), (helped, _), (light, _) = module(workers=0), module(workers=2), module(workers=2, second_view="crop-flip")
    kinds = [type(data.training(2).batches) for data in (alone, helped, light)]
    assert kinds == [MemoryBatches, HeldBatches, MemoryBatches]
    assert {type(data.train.batches) for data in (alone, helped, light)} == {MemoryBatches}
    for one, other in zip(alone.training(2).epoch(1), helped.training(2).epoch(1), strict=True):
        assert torch.equal(one.x, other.x)
        assert torch.equal(one.views[0], other.views[0])


def test_the_second_view_is_augmented_as_the_settings_say():
    crop, _ = module(second_view="none", augment="none")
    shown = next(iter(crop.training(2).epoch(0)))
    assert torch.equal(shown.x, shown.views[0])
    auto, _ = module(augment="none", workers=0)
    assert auto.second_view.policy == "rand-augment"
    assert (auto.second_view.crop, auto.second_view.flip) == (False, False)


class Two(Distiller):
    """Needs two views."""

    name = "two"
    needs = ("views:2",)
    taps = ()
    student_taps = ("logits",)
    requires_teacher = False

    def forward(self, step):
        first, second = step.views
        return {"apart": (first.student.logits - second.student.logits).square().mean()}


FAST = {"epochs": 1, "precision": "fp32", "device": "cpu", "lr": 0.02, "workers": 0, "batch_size": 16}


def test_loaders_and_tensors_of_ones_own_are_refused_by_name(images):
    tensors = TensorDataset(torch.randn(16, 3, 32, 32), torch.arange(16) % 10)
    for given in ((DataLoader(tensors, 8), DataLoader(tensors, 8)), (tensors, tensors)):
        with pytest.raises(
            SettingsError, match=r"two needs two views of each image, but loaders of your own.*imagefolder:PATH"
        ):
            Engine("resnet14", "resnet8", [Two()], **FAST).fit(*given)


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_mixed_images_are_refused_by_name(name, tmp_path):
    with pytest.raises(SettingsError, match=rf"two needs two views of each image, but train\.{name} mixes.*or two"):
        Engine("resnet14", "resnet8", [Two()], "digits@train=32@test=8", out=tmp_path / "run", **FAST, **{name: 1.0}).fit()


class Pictures(Dataset):
    """A data set of the user's own: digits as (PIL image, class)."""

    def __init__(self, part):
        self.part, self.targets = part, part.labels.tolist()

    def __len__(self):
        return len(self.part)

    def __getitem__(self, index):
        return Image.fromarray(self.part.images[index].permute(1, 2, 0).numpy()), self.targets[index]


def test_images_of_a_data_set_of_ones_own_come_in_two_views(tmp_path):
    digits = load_data("digits@train=32@test=16")
    engine = Engine(None, "resnet8", [Two()], out=tmp_path / "run", **FAST)
    result = engine.fit(Pictures(digits.train), Pictures(digits.test))
    assert result.history[0]["terms"]["two.apart"] > 0
