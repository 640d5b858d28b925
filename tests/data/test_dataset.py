from dataclasses import replace

import pytest
import torch

from kdengine import DataError, Engine, SettingsError, Split
from kdengine.config.settings import TrainSettings
from kdengine.data.load import load_data
from kdengine.networks.models import ModelSource
from kdengine.plugins.registry import Registry
from kdengine.storage.runfolder import RunFolder

FAST = {"precision": "fp32", "device": "cpu", "batch_size": 16, "lr": 0.02, "augment": "none"}


@pytest.fixture(scope="module")
def data():
    return load_data("digits@train=200@test=64")


def rows_of(split):
    return {image.numpy().tobytes() for image in split.images}


def test_a_share_is_held_out_and_nothing_is_lost_or_doubled(data):
    parted = data.holding_out(0.2)
    assert (len(parted.train), len(parted.validation), len(parted.test)) == (160, 40, 64)
    assert rows_of(parted.train) | rows_of(parted.validation) == rows_of(data.train)
    labels = torch.cat([parted.train.labels, parted.validation.labels]).bincount(minlength=10)
    assert torch.equal(labels, data.train.labels.bincount(minlength=10))
    assert parted.describe()["validation_images"] == 40


def test_the_same_images_are_held_out_every_time_and_never_twice(data):
    one, other = data.holding_out(0.25), data.holding_out(0.25)
    assert torch.equal(one.validation.images, other.validation.images)
    assert one.holding_out(0.25) is one


@pytest.mark.parametrize("share", [0.001, 0.999])
def test_an_empty_part_is_refused(share, data):
    with pytest.raises(DataError, match=rf"train\.validation = {share} holds out .* Choose another share"):
        data.holding_out(share)


def test_items_that_are_read_as_needed_are_held_out_too(data):
    items = [(number, int(label)) for number, label in enumerate(data.train.labels)]
    read = replace(data, train=Split(data.train.labels, None, items)).holding_out(0.2)
    assert [label for _, label in read.train.items] == read.train.labels.tolist()
    assert [label for _, label in read.validation.items] == read.validation.labels.tolist()
    assert len({number for split in (read.train, read.validation) for number, _ in split.items}) == 200


def test_validation_images_are_measured_in_their_order_without_augmentation(data):
    batches = data.holding_out(0.5).validation_batches(TrainSettings(batch_size=64), torch.device("cpu"))
    labels = torch.cat([batch.y for batch in batches.epoch(0)])
    assert torch.equal(labels, data.holding_out(0.5).validation.labels)
    assert data.validation_batches(TrainSettings(), torch.device("cpu")) is None


def test_a_run_chooses_its_best_epoch_by_the_images_held_out(tmp_path):
    networks = [ModelSource(name, {"num_classes": 10}, (3, 32, 32), Registry()).create(1) for name in ("resnet8", "resnet8")]
    settings = {"epochs": 3, "validation": 0.25, "out": tmp_path / "run", **FAST}
    result = Engine(*networks, ["st"], "digits@train=64@test=16", **settings).fit()
    chosen = max(result.history, key=lambda row: row["val_top1"])
    assert result.best_top1 == chosen["test_top1"]
    assert result.facts["student"]["best_val_top1"] == chosen["val_top1"]
    assert (result.facts["data"]["train_images"], result.facts["data"]["validation_images"]) == (48, 16)


def test_a_teacher_that_is_trained_first_does_not_see_what_is_held_out(tmp_path, monkeypatch):
    monkeypatch.setenv("KDENGINE_CACHE", str(tmp_path / "cache"))
    settings = {"epochs": 1, "validation": 0.25, "out": tmp_path / "run", **FAST}
    result = Engine("resnet8", "resnet8", ["st"], "digits@train=64@test=16", **settings).fit()
    teacher = RunFolder(result.facts["teacher"]["folder"]).result()
    assert teacher["data"]["train_images"] == 48


def test_loaders_of_ones_own_are_split_by_their_owner():
    loader = [(torch.zeros(2, 3, 32, 32), torch.tensor([0, 9]))]
    network = ModelSource("resnet8", {"num_classes": 10}, (3, 32, 32), Registry()).create(1)
    with pytest.raises(SettingsError, match=r"train\.validation"):
        Engine(None, network, validation=0.5, **FAST).fit(loader, loader)


@pytest.mark.parametrize(("spec", "images"), [("digits@train=8@test=20", 20), ("digit-scenes@train=8@test=20@target=masks", 4)])
def test_images_are_measured_many_at_once_unless_each_of_their_pixels_has_an_output(spec, images):
    batches = load_data(spec).test_batches(TrainSettings(batch_size=4), torch.device("cpu"))
    assert len(next(batches.epoch(0)).x) == images
