from dataclasses import replace

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from kdengine import Comparison, DataError, Distiller, Engine, ModelError, Registry, SettingsError
from kdengine.config.settings import LOADERS, Settings
from kdengine.data.datamodule import DataModule
from kdengine.data.load import load_data
from kdengine.networks.models import ModelSource
from kdengine.report.page import write_page
from kdengine.report.table import results_table

CPU = torch.device("cpu")
FAST = {"epochs": 1, "precision": "fp32", "device": "cpu", "lr": 0.02}


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    """Run folders land in the test's own folder."""
    monkeypatch.chdir(tmp_path)


def network(name="resnet8", seed=5, classes=10):
    return ModelSource(name, {"num_classes": classes}, (3, 32, 32), Registry()).create(seed)


@pytest.fixture(scope="module")
def sets():
    """Real digits, normalised by hand: 40 for training, 20 for testing."""
    data = load_data("digits@train=40@test=20")
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (data.mean, data.std))
    return [TensorDataset((part.images.float() / 255 - mean) / std, part.labels) for part in (data.train, data.test)]


class Dicts:
    """A loader of mappings, as Hugging Face's collators give them."""

    def __init__(self, loader):
        self.loader = loader

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        return ({"pixel_values": images, "labels": labels, "more": 0} for images, labels in self.loader)


def loaders(sets, batch=16, test_batch=12):
    return DataLoader(sets[0], batch), DataLoader(sets[1], test_batch)


def test_loaders_of_tuples_and_of_mappings_give_the_same_run(sets):
    train, test = loaders(sets)
    by_tuples = Engine(network(), "resnet8", ["st"], **FAST).fit(train, test)
    by_mappings = Engine(network(), "resnet8", ["st"], **FAST).fit(train_loader=Dicts(train), val_loader=Dicts(test))
    assert by_tuples.history[0]["terms"] == by_mappings.history[0]["terms"]
    assert by_tuples.top1 == by_mappings.top1
    assert by_tuples.teacher_top1 == by_mappings.teacher_top1


def test_loaders_without_order_give_the_numbers_of_the_data_they_hold(sets):
    result = Engine(None, network("resnet8", seed=0), channels_last=False, **FAST).fit(*loaders(sets))
    model = network("resnet8", seed=0)
    optimizer = torch.optim.SGD(model.parameters(), 0.02, 0.9, weight_decay=5e-4, nesterov=True)
    schedule = [0.02 * (1 + torch.cos(torch.tensor(step / 3 * torch.pi))) / 2 for step in range(3)]
    for (images, labels), rate in zip(loaders(sets)[0], schedule, strict=True):
        optimizer.param_groups[0]["lr"] = float(rate)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model.train()(images), labels).backward()
        optimizer.step()
    with torch.no_grad():
        right = sum(int((model.eval()(images).argmax(1) == labels).sum()) for images, labels in loaders(sets)[1])
    assert result.top1 == 100 * right / 20
    ours, theirs = (dict(found.named_parameters()) for found in (result.student, model))
    assert all(torch.allclose(ours[key], theirs[key], rtol=0, atol=1e-6) for key in theirs)


def test_the_run_folder_says_that_the_data_came_as_loaders_and_so_the_run_is_not_repeated_on_others(sets):
    result = Engine(None, "resnet8", **FAST).fit(*loaders(sets))
    assert result.facts["data"] == {"name": LOADERS, "num_classes": 10, "input_size": [3, 32, 32]}
    assert result.facts["settings"]["data"] == LOADERS
    settings = Engine(None, "resnet8", data=LOADERS, **FAST)
    with pytest.raises(Exception, match="Pass them again"):
        settings.fit()
    assert settings.fit(*loaders(sets)).top1 == result.top1


class Bank(Distiller):
    """Has a place for every image of the training set."""

    name = "bank"

    def build(self, pair):
        self.register_buffer("seen", torch.zeros(pair.num_samples, dtype=torch.long))

    def forward(self, step):
        self.seen[step.index] += 1
        return {"nothing": 0.0 * step.student.logits.sum()}


class Indexed(Dicts):
    """A loader of mappings with the position of each image."""

    def __iter__(self):
        return ({"image": images, "label": labels, "idx": index} for images, labels, index in self.loader)


@pytest.mark.parametrize("wrap", [lambda loader: loader, Indexed], ids=["with a data set", "without one"])
def test_an_index_that_the_loader_gives_reaches_the_methods(sets, wrap):
    bank = Bank()
    train = DataLoader(TensorDataset(*sets[0].tensors, torch.arange(40)), 16, shuffle=True)
    Engine(network(), "resnet8", [bank], **FAST).fit(wrap(train), loaders(sets)[1])
    assert bank.seen.tolist() == [1] * 40


@pytest.mark.parametrize("wrap", [lambda loader: loader, Dicts], ids=["tuples", "mappings"])
def test_a_method_that_needs_an_index_refuses_a_loader_without_one(sets, wrap):
    train, test = loaders(sets)
    with pytest.raises(SettingsError, match=r"Let its data set return \(image, label, index\)"):
        Engine(network(), "resnet8", [Bank()], **FAST).fit(wrap(train), test)


def test_an_index_outside_the_training_set_ends_the_run_with_one_sentence(sets):
    train = DataLoader(TensorDataset(*sets[0].tensors, torch.arange(40) + 1), 16)
    with pytest.raises(DataError, match="train_loader gives the index 40, but positions count from 0 to 39, for its 40 images"):
        Engine(None, "resnet8", **FAST).fit(train, loaders(sets)[1])


def test_modules_may_know_classes_that_no_image_shows(sets):
    few = [TensorDataset(*part[part.tensors[1] < 6]) for part in sets]
    result = Engine(network(), network("resnet8"), ["st"], **FAST).fit(*loaders(few))
    assert result.facts["data"]["num_classes"] == 10
    assert Engine(None, "resnet8", **FAST).fit(*loaders(few)).facts["data"]["num_classes"] == 6


def test_modules_of_fewer_classes_than_the_data_or_than_each_other_are_refused(sets):
    with pytest.raises(ModelError, match="10 classes"):
        Engine(None, network("resnet8", classes=4), **FAST).fit(*loaders(sets))
    with pytest.raises(ModelError, match="12 classes"):
        Engine(network(classes=12), network("resnet8"), ["st"], **FAST).fit(*loaders(sets))


def test_a_teacher_without_weights_cannot_be_trained_on_loaders(sets):
    with pytest.raises(ModelError, match="teacher_weights"):
        Engine("resnet14", "resnet8", ["st"], **FAST).fit(*loaders(sets))


def test_loaders_of_another_form_are_refused(sets):
    train, test = loaders(sets)
    for bad in ([], [1, 2], [(torch.zeros(2, 3), torch.zeros(2, dtype=torch.long))]):
        with pytest.raises(DataError):
            DataModule.of_loaders(train, bad, CPU)
    with pytest.raises(DataError, match="length"):
        DataModule.of_loaders((batch for batch in train), test, CPU)


def test_a_class_list_of_the_data_set_is_believed(sets):
    train, test = loaders(sets)
    train.dataset.classes = list("abcdefghijkl")
    try:
        assert DataModule.of_loaders(train, test, CPU).num_classes == 12
    finally:
        del train.dataset.classes


def test_a_label_of_the_training_loader_outside_the_classes_ends_the_run_with_one_sentence(sets):
    odd = TensorDataset(sets[0].tensors[0], sets[0].tensors[1].clone())
    odd.tensors[1][17] = 10
    for train in (DataLoader(odd, 16), Dicts(DataLoader(odd, 16))):
        with pytest.raises(
            DataError, match="train_loader gives the label 10, but there are 10 classes, which count from 0 to 9"
        ):
            Engine(None, "resnet8", **FAST).fit(train, loaders(sets)[1])


def test_images_without_a_label_are_refused_before_anything_is_trained(sets):
    unlabelled = TensorDataset(sets[1].tensors[0], sets[1].tensors[1] - 100)
    with pytest.raises(DataError, match="val_loader gives the label -100, but classes count from 0"):
        Engine(None, "resnet8", **FAST).plan(loaders(sets)[0], DataLoader(unlabelled, 12))


def test_no_test_image_may_have_values_that_are_not_finite_in_whatever_batch(sets):
    images = sets[1].tensors[0].clone()
    images[17, 0, 0, 0] = float("nan")
    with pytest.raises(DataError, match=r"val_loader gives images with values that are not finite .* 1 of 8 in one batch"):
        DataModule.of_loaders(loaders(sets)[0], DataLoader(TensorDataset(images, sets[1].tensors[1]), 12), CPU)


def test_without_a_loader_to_measure_on_nothing_is_measured_and_that_is_said(sets, caplog, tmp_path):
    train, _ = loaders(sets)
    with caplog.at_level("WARNING", "kdengine"):
        result = Engine(network(), "resnet8", ["st"], out=tmp_path / "run", **{**FAST, "epochs": 2}).fit(train)
    assert "There is no val_loader, so nothing is measured" in caplog.text
    assert (result.top1, result.best_top1, result.teacher_top1) == (None, None, None)
    assert ["train_top1" in row and "test_top1" not in row for row in result.history] == [True, True]
    assert result.facts["data"]["num_classes"] == 10
    assert "resnet8" in results_table([tmp_path / "run"]).to_markdown()
    write_page(tmp_path / "page.html", [tmp_path / "run"])
    assert "<h2>Results</h2>" in (tmp_path / "page.html").read_text()


def test_without_one_the_classes_are_those_of_the_data_set_the_modules_or_all_training_labels(sets):
    ordered = TensorDataset(*(tensor[sets[0].tensors[1].argsort()] for tensor in sets[0].tensors))
    train = DataLoader(ordered, 16)
    assert DataModule.of_loaders(train, None, CPU).num_classes == 10
    assert DataModule.of_loaders(train, None, CPU, [(network(classes=12), None)]).num_classes == 12
    ordered.classes = list("abcdefghijkl")
    assert DataModule.of_loaders(train, None, CPU).num_classes == 12


def test_lanes_are_compared_on_a_loader_alone(sets, tmp_path):
    train, _ = loaders(sets)
    board = Comparison(network(), "resnet8", ["st"], out=tmp_path / "compared", **FAST).fit(train)
    assert {"plain", "st"} <= {cell for row in board.table().rows for cell in row}


def warnings_in(caplog):
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def test_loaders_with_batches_of_another_size_than_the_settings_have_are_said_once(sets, caplog):
    with caplog.at_level("WARNING", "kdengine"):
        Engine(None, "resnet8", **FAST).session(*loaders(sets, batch=16))
        Engine(None, "resnet8", batch_size=16, **FAST).session(*loaders(sets, batch=16))
        Engine(None, "resnet8", **FAST).session(*sets)
    assert warnings_in(caplog) == [
        "train_loader has batches of 16 images, but train.batch_size, by which the learning rate is chosen, is 128. "
        "Pass batch_size=16",
        "train.batch_size = 128 is more than the 40 training images, so every epoch is a single step",
    ]


def test_a_batch_larger_than_the_data_is_said_once(caplog, tmp_path):
    with caplog.at_level("WARNING", "kdengine"):
        Engine(None, "resnet8", data="digits@train=32@test=16", batch_size=33, **FAST).session()
    assert warnings_in(caplog) == ["train.batch_size = 33 is more than the 32 training images, so every epoch is a single step"]
    caplog.clear()
    Engine(None, "resnet8", data="digits@train=32@test=16", batch_size=32, **FAST).session()
    assert warnings_in(caplog) == []


def test_a_share_to_hold_out_is_not_taken_from_data_with_a_validation_split_and_that_is_said(caplog):
    data = load_data("digits@train=160@test=80")
    data = replace(data, validation=data.test.first(20))
    settings = Settings.checked({"student": "resnet8", "train": {"validation": 0.1}})
    with caplog.at_level("WARNING", "kdengine"):
        made = DataModule.of_data(data, settings, CPU)
    assert len(made.dataset.validation) == 20
    assert "'digits@train=160@test=80' has a validation split of its own, 20 images" in caplog.text
