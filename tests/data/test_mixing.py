import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from kdengine import DataError, Engine, SettingsError
from kdengine.config.settings import Settings, TrainSettings
from kdengine.data.datamodule import DataModule
from kdengine.tasks import Classification

CPU = torch.device("cpu")


def module(digits, processes=1, size=None, **train):
    settings = Settings.checked({"student": "resnet8", "train": {"batch_size": 64, **train}})
    data = digits if size is None else digits.__class__(**{**vars(digits), "train": digits.train.first(size)})
    found = DataModule.of_data(data, settings, CPU, processes)
    task = Classification.of(found, settings.train)
    weights = task.sampling_weights(found.targets) if settings.train.balanced_sampling else None
    return found.suited(settings, weights, task.mixing(settings.train))


@pytest.mark.parametrize("train", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.2, "cutmix": 1.0}])
def test_mixed_images_have_mixed_targets(digits, train):
    plain, mixed = (module(digits, size=200, augment="none", **kind).train for kind in ({}, train))
    for one, other in zip(plain.epoch(0), mixed.epoch(0), strict=True):
        assert other.y.shape == (len(one), 10)
        torch.testing.assert_close(other.y.sum(1), torch.ones(len(one)))
        assert torch.equal(one.index, other.index)
        # the share of an image's own class is the share of the image itself
        partner_x, partner_y = one.x.roll(1, 0), one.y.roll(1, 0)
        share = torch.where(partner_y == one.y, 1.0, other.y[torch.arange(len(one)), one.y])
        share = share[partner_y != one.y][0]
        if "cutmix" not in train:
            torch.testing.assert_close(other.x, share * one.x + (1 - share) * partner_x, atol=1e-4, rtol=1e-4)
        elif "mixup" not in train:
            kept = (other.x == one.x).all(1).flatten(1).float().mean(1).min()
            assert ((other.x == one.x) | (other.x == partner_x)).all()
            assert kept >= share - 1e-6


def test_mixing_goes_on_in_the_middle_of_an_epoch_as_in_a_whole_one(digits):
    train = module(digits, size=300, mixup=0.2, cutmix=1.0).train
    whole = list(train.epoch(3))
    for start in range(1, 5):
        for one, other in zip(train.epoch(3, start), whole[start:], strict=True):
            assert torch.equal(one.x, other.x)
            assert torch.equal(one.y, other.y)
    assert not torch.equal(next(iter(train.epoch(4))).y, whole[0].y)


@pytest.mark.parametrize(
    ("size", "processes", "settings", "batches"),
    [
        (129, 1, {}, [64, 64]),
        (129, 1, {"drop_last": False}, [64, 64, 1]),
        (131, 2, {}, [64, 64]),
        (131, 1, {}, [64, 64, 3]),
        (131, 1, {"drop_last": True}, [64, 64]),
        (128, 1, {"drop_last": True}, [64, 64]),
        (1, 1, {}, [1]),
    ],
)
def test_a_leftover_is_left_out_where_it_is_too_small_or_where_that_is_asked_for(digits, size, processes, settings, batches):
    train = module(digits, processes, size, **settings).train
    assert [len(batch) for batch in train.epoch(0)] == batches
    assert len(train) == len(batches)
    assert [len(batch) for batch in train.epoch(0, 1)] == batches[1:]


def test_leaving_out_all_images_is_refused(digits):
    with pytest.raises(DataError, match=r"no image is left to train on: there are 20, fewer than train\.batch_size = 64"):
        module(digits, size=20, drop_last=True)


def test_balanced_sampling_shows_a_rare_class_as_often_as_the_others(digits):
    labels = digits.train.labels
    rare = torch.cat([(labels != 3).nonzero()[:, 0], (labels == 3).nonzero()[:10, 0]])
    data = digits.__class__(**{**vars(digits), "train": digits.train.at(rare)})
    train = module(data, balanced_sampling=True).train
    shown = torch.cat([batch.y for batch in train.epoch(0)])
    assert len(shown) == len(rare)
    counts = torch.bincount(shown)
    assert counts.min() > 0.7 * counts.float().mean()
    assert torch.equal(shown, torch.cat([batch.y for batch in train.epoch(0)]))


def test_class_weights_follow_the_frequencies_or_are_given(digits):
    data = module(digits)
    weights = Classification.of(data, TrainSettings(class_weights="balanced")).weights
    counts = torch.bincount(digits.train.labels)
    torch.testing.assert_close(weights * counts, torch.full((10,), len(digits.train) / 10))
    output, target = torch.randn(6, 10, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 1, 2, 2, 2])
    given = [1.0, 2.0, 0.5, *[1.0] * 7]
    found = Classification.of(data, TrainSettings(class_weights=given)).loss(output, target)
    own = -output.double().log_softmax(1)[torch.arange(6), target]
    chosen = torch.tensor(given).double()[target]
    assert float(found) == pytest.approx(float((own * chosen).sum() / chosen.sum()), rel=1e-5)
    with pytest.raises(SettingsError, match="2 numbers, but the data has 10 classes"):
        Classification.of(data, TrainSettings(class_weights=[1.0, 2.0]))


@pytest.mark.parametrize("setting", [{"validation": 0.1}, {"augment": "rand-augment"}, {"erase": 0.25, "color_jitter": 0.4}])
def test_what_cannot_be_done_to_loaders_of_the_users_own_is_refused(setting):
    loader = DataLoader(TensorDataset(torch.randn(8, 3, 32, 32), torch.arange(8) % 4), batch_size=4)
    with pytest.raises(SettingsError, match=f"train.{next(iter(setting))}.*only for data that kdengine loads"):
        Engine(None, "resnet8", device="cpu", **setting).session(loader, loader)
