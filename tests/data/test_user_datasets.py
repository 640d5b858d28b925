import datasets
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, TensorDataset

from kdengine import Comparison, DataError, Distiller, Engine, Registry
from kdengine.config.settings import TrainSettings
from kdengine.data.load import load_data
from kdengine.data.user_datasets import loader_of, pictures_of
from kdengine.data.user_loaders import UserBatches
from kdengine.networks.models import ModelSource
from kdengine.runs.source import Loaders

CPU = torch.device("cpu")
FAST = {"epochs": 1, "precision": "fp32", "device": "cpu", "lr": 0.02, "batch_size": 64}


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    """Run folders land in the test's own folder."""
    monkeypatch.chdir(tmp_path)


class Pairs(Dataset):
    """Items given by a function of the position."""

    def __init__(self, item, count=10, **attributes):
        self.item, self.count = item, count
        vars(self).update(attributes)

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return self.item(index)


def noisy(index):
    return torch.rand(3, 4, 4) + index, index % 3


def batches(dataset, seed=0, batch_size=4, workers=0):
    return UserBatches(loader_of(dataset, "train_loader", seed, batch_size, workers))


def test_every_item_comes_once_an_epoch_with_its_position_in_an_order_of_seed_and_epoch():
    ours = batches(Pairs(noisy))
    assert len(ours) == 3
    orders = []
    for epoch in (0, 1):
        found = list(ours.epoch(epoch))
        assert [len(batch) for batch in found] == [4, 4, 2]
        index = torch.cat([batch.index for batch in found])
        assert torch.equal(torch.cat([batch.y for batch in found]), index % 3)
        assert torch.equal(torch.cat([batch.x for batch in found]).flatten(1).floor()[:, 0].long(), index)
        assert index.sort().values.tolist() == list(range(10))
        orders.append(index.tolist())
    assert orders[0] != orders[1]
    assert orders[0] != torch.cat([batch.index for batch in batches(Pairs(noisy), seed=1).epoch(0)]).tolist()
    assert torch.cat([batch.index for batch in batches(Pairs(noisy), seed=None).epoch(5)]).tolist() == list(range(10))


def test_what_a_data_set_draws_depends_on_seed_epoch_and_position_alone():
    state = torch.get_rng_state()
    one, other = (list(batches(Pairs(noisy), workers=workers).epoch(1)) for workers in (0, 2))
    assert all(torch.equal(ours.x, theirs.x) for ours, theirs in zip(one, other, strict=True))
    rest = list(batches(Pairs(noisy)).epoch(1, 1))
    assert torch.equal(rest[1].x, one[2].x)
    assert not torch.equal(one[0].x.frac(), next(iter(batches(Pairs(noisy)).epoch(2))).x.frac())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("drop_last", "batch_size", "sizes"), [(True, 4, [4, 4]), (None, 3, [3, 3, 3]), (None, 4, [4, 4, 2])])
def test_a_last_batch_that_is_too_small_is_left_out_as_with_other_data(drop_last, batch_size, sizes):
    settings = {**FAST, "batch_size": batch_size, "drop_last": drop_last}
    train = Engine(None, "resnet8", **settings).session(Pairs(noisy)).data.train
    assert [len(batch) for batch in train.epoch(0)] == sizes
    assert len(train) == len(sizes)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("item", "said"),
    [
        (lambda index: 1 / 0, r"train_loader: item \d cannot be read: ZeroDivisionError: division by zero\."),
        (lambda index: torch.zeros(3, 4, 4), r"must give \(image, label\) .*; item \d is Tensor"),
        (lambda index: (torch.zeros(3, 4, 4 + index), 0), r"images of different shapes, \[3, 4, \d+\] and \[3, 4, \d+\]"),
        (lambda index: (torch.zeros(3, 4, 4), object()), "A batch cannot be assembled: TypeError"),
        (lambda index: (torch.zeros(3, 4, 4, dtype=torch.uint8), 0), "A loader must give normalised images"),
    ],
    ids=["fails", "no pair", "shapes", "label", "bytes"],
)
def test_items_of_another_form_are_refused_in_one_sentence(item, said, workers):
    with pytest.raises(DataError, match=said) as caught:
        list(batches(Pairs(item), workers=workers).epoch(0))
    assert "Traceback" not in str(caught.value)


def test_a_mapping_is_an_item_too():
    item = {"pixel_values": torch.ones(3, 4, 4), "label": 2, "more": "x"}
    found = list(batches(Pairs(lambda index: item)).epoch(0))
    assert torch.cat([batch.y for batch in found]).tolist() == [2] * 10


def test_a_loader_is_left_as_it_is_and_nothing_is_nothing():
    loader = [1]
    assert loader_of(loader, "train_loader", 0, 4, 0) is loader
    assert loader_of(None, "val_loader", 0, 4, 0) is None
    assert pictures_of(loader, None) is None


@pytest.fixture(scope="module")
def digits_data():
    return load_data("digits@train=160@test=80")


@pytest.fixture(scope="module")
def tensors(digits_data):
    """Real digits, normalised by hand."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (digits_data.mean, digits_data.std))
    return [
        TensorDataset((part.images.float() / 255 - mean) / std, part.labels) for part in (digits_data.train, digits_data.test)
    ]


class Seen(Distiller):
    """Notes the position of every image."""

    name = "seen"

    def build(self, pair):
        self.register_buffer("times", torch.zeros(pair.num_samples, dtype=torch.long))

    def forward(self, step):
        self.times[step.index] += 1
        return {"nothing": 0.0 * step.student.logits.sum()}


def test_data_sets_of_tensors_give_the_numbers_of_the_data_that_they_hold(tensors):
    result = Engine(None, "resnet8", **FAST).fit(*tensors)
    whole = Engine(None, "resnet8", data="digits@train=160@test=80", augment="none", **FAST).fit()
    assert result.history[0]["terms"] == pytest.approx(whole.history[0]["terms"], rel=1e-4)
    assert result.facts["settings"]["data"] == "loaders"


def test_methods_get_the_position_of_each_image(tensors):
    teacher = ModelSource("resnet8", {"num_classes": 10}, (3, 32, 32), Registry()).create(0)
    seen = Seen()
    Engine(teacher, "resnet8", [seen], **FAST).fit(tensors[0])
    assert seen.times.tolist() == [1] * 160


def test_each_trial_and_each_process_has_batches_of_its_own(tensors):
    session = Comparison(None, "resnet8", [], **FAST).assignment.session
    session = session(Loaders(tensors[0], None))
    first, again, second = (session.for_seed(seed).data.train for seed in (0, 0, 1))
    one, same, other = (next(iter(part.epoch(0))).index.tolist() for part in (first, again, second))
    assert one == same != other
    shares = [next(iter(session.data.shared(rank, 2).train.epoch(0))).index.tolist() for rank in (0, 1)]
    assert shares == [one[0::2], one[1::2]]


def picture(index):
    return Image.new("RGB", (8 + index % 2, 8), (20 * index, 0, 100)), index % 3


def test_a_data_set_of_pictures_becomes_data_that_kdengine_prepares():
    data = pictures_of(Pairs(picture, classes=["a", "b", "c"]), Pairs(picture, 4))
    assert (data.classes, data.input_size, data.augment) == (("a", "b", "c"), (3, 224, 224), "crop-flip")
    assert data.train.labels.tolist() == [0, 1, 2] * 3 + [0]
    assert (data.train.images, len(data.test)) == (None, 4)
    own = pictures_of(Pairs(picture, targets=[0, 1, 2] * 3 + [0], transform=print), Pairs(picture, 4))
    assert (own.classes, own.augment, own.train.labels.tolist()) == (("0", "1", "2"), "none", [0, 1, 2] * 3 + [0])
    with pytest.raises(DataError, match="Image 1 comes with the label 1, but its split says 0"):
        pictures_of(Pairs(picture, targets=[0] * 10), Pairs(picture, 4))


def test_pictures_are_drawn_anew_in_every_epoch_but_their_fingerprint_is_always_the_same():
    def tinted(index):
        red = int(torch.randint(256, ()))
        return Image.new("RGB", (8, 8), (red, 0, 0)), index % 3

    one, other = (pictures_of(Pairs(tinted), Pairs(tinted)) for _ in range(2))
    assert (one.fingerprint, one.mean) == (other.fingerprint, other.mean)
    ours = one.train_batches(TrainSettings(workers=0, augment="none"), 0, CPU)
    first, second, again = (next(ours.epoch(number)).x.sort(0).values for number in (0, 1, 0))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


def test_pictures_need_others_to_measure_on_and_a_class_each():
    with pytest.raises(DataError, match=r"fit\(\) needs a second data set of PIL images"):
        pictures_of(Pairs(picture), None)
    with pytest.raises(DataError, match="The training data set must give a class index"):
        pictures_of(Pairs(lambda index: (picture(index)[0], 0.5)), Pairs(picture))
    with pytest.raises(DataError, match="The training data set is empty"):
        pictures_of(Pairs(picture, 0), Pairs(picture))


@pytest.mark.slow
def test_a_run_on_pictures_trains_its_teacher_too_and_says_that_its_data_were_passed(digits_data):
    def pictures(split):
        images = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in split.images]
        return Pairs(lambda index: (images[index], int(split.labels[index])), len(split))

    sets = [pictures(digits_data.train), pictures(digits_data.test)]
    engine = Engine("resnet8", "resnet8", ["st"], workers=0, augment="none", **FAST)
    result = engine.fit(*sets)
    assert result.facts["settings"]["data"] == "loaders"
    assert (result.facts["data"]["mean"], result.facts["data"]["train_images"]) == (list(digits_data.mean), 160)
    assert result.facts["teacher"]["epochs"] == 1
    whole = Engine(None, "resnet8", data="digits@train=160@test=80", augment="none", **FAST).fit()
    alone = Engine(None, "resnet8", workers=0, augment="none", **FAST).fit(*sets)
    assert alone.history[0]["terms"] == whole.history[0]["terms"]


@pytest.mark.parametrize("named", [True, False])
def test_images_and_masks_are_data_for_segmentation(named):
    def item(index):
        return Image.new("RGB", (6, 8), (index, 0, 0)), Image.new("L", (6, 8), 255 if index == 9 else index % 3)

    train, test = (Pairs(item, **({"classes": ["a", "b", "c", "d"]} if named else {})) for _ in range(2))
    data = pictures_of(train, test)
    assert (data.task, data.classes) == ("segmentation", ("a", "b", "c", "d") if named else ("0", "1", "2"))
    (batch,) = data.test_batches(TrainSettings(workers=0), CPU).epoch(0)
    assert batch.y[:, 0, 0].tolist() == [0, 1, 2] * 3 + [255]
    assert batch.x.shape == (10, 3, 8, 6)


def test_a_data_set_of_hugging_face_is_one_too(tmp_path):
    images = [Image.new("RGB", (8, 8), (90 * k, 0, 0)) for k in range(4)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["dark", "red"])})
    given = datasets.Dataset.from_dict({"image": images, "label": [0, 0, 1, 1]}, features=features)
    data = pictures_of(given, given)
    assert data.train.labels.tolist() == [0, 0, 1, 1]
    assert data.num_classes == 2
    ready = given.map(lambda item: {"pixel_values": [[[0.5] * 8] * 8] * 3}, remove_columns=["image"]).with_format("torch")
    (batch,) = loader_of(ready, "train_loader", None, 4, 0)
    assert [list(part.shape) for part in batch] == [[4, 3, 8, 8], [4], [4]]
