from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from kdengine import Registry
from kdengine.config.settings import TrainSettings
from kdengine.data import decoding, load
from kdengine.data.augmentation import Augmentation
from kdengine.data.batches import MemoryBatches
from kdengine.data.dataset import Data, Split
from kdengine.data.load import BUILT_IN, load_data, ready, statistics
from kdengine.data.worker_batches import HeldBatches, StreamBatches
from kdengine.errors import DataError

CPU = torch.device("cpu")


def split(count, classes=3, size=8, seed=0):
    random = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=random)
    return Split(torch.arange(count) % classes, images)


def small(train=None, test=None, **changes):
    fields = {"name": "small", "classes": ("a", "b", "c"), "input_size": (3, 8, 8), "mean": (), "std": (), "augment": "crop"}
    return Data(
        **{**fields, **changes}, train=split(12) if train is None else train, test=split(6, seed=1) if test is None else test
    )


@pytest.fixture
def factory(tmp_path, monkeypatch):
    """Loads a data set by ``python:``, from a module that calls back to the test."""

    def load(make, options="", registry=None):
        import user_data

        user_data.make = make
        return load_data(f"python:user_data:make{options}", registry)

    (tmp_path / "user_data.py").write_text("make = None\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield load
    import sys

    sys.modules.pop("user_data", None)


def refusal(text, registry=None):
    with pytest.raises(DataError) as caught:
        load_data(text, registry)
    return str(caught.value)


def test_an_unknown_name_is_answered_with_the_nearest_one():
    assert refusal("digts") == "There is no data set 'digts'. Did you mean 'digits'?"
    assert refusal("imagfolder:/x").startswith("There is no data set 'imagfolder:/x'. Did you mean 'imagefolder'")


def test_an_unknown_name_near_nothing_is_answered_with_all_there_are():
    for name in BUILT_IN:
        assert name in refusal("zzzzzz")


def test_a_folder_is_answered_with_the_spec_that_reads_it(tmp_path, pictures):
    root = tmp_path / "pictures"
    assert refusal(str(root)) == f"There is no data set '{root}'. Did you mean 'imagefolder:{root}'?"
    assert refusal(f"{root}@size=16").endswith(f"Did you mean 'imagefolder:{root}'?")
    assert refusal(f"{root}/test").endswith(f"Did you mean 'imagefolder:{root}/test@split=0.2'?")
    (tmp_path / "table").mkdir()
    assert "Data is one of digits" in refusal(f"{tmp_path}/table")
    (tmp_path / "table" / "train-0.parquet").touch()
    for spec in (f"{tmp_path}/table", f"imagefolder:{tmp_path}/table"):
        assert refusal(spec).endswith(f"Did you mean 'hf:{tmp_path}/table'?")


def test_a_path_with_an_at_sign_is_read(tmp_path, pictures):
    root = (tmp_path / "pictures").rename(tmp_path / "pictures@home")
    assert refusal(str(root)).endswith(f"Did you mean 'imagefolder:{root}'?")
    assert load_data(f"imagefolder:{root}@size=16@train=3").train.images.shape == (3, 3, 16, 16)


@pytest.mark.parametrize(
    ("text", "form"),
    [("digits:8", "digits"), ("cifar100:x", "cifar100"), ("imagefolder", "imagefolder:PATH"), ("hf", "hf:NAME-OR-FOLDER")],
)
def test_a_name_where_none_belongs_and_a_missing_one_are_answered_with_the_form(text, form):
    assert refusal(text).endswith(f"Write {form}.")


def test_an_unknown_option_is_answered_with_the_nearest_one():
    assert "'sise'. Did you mean 'size'?" in refusal("imagefolder:/x@sise=8")
    assert "'trian'. Did you mean 'train'?" in refusal("digits@trian=8")


def test_an_unknown_option_near_nothing_is_answered_with_all_there_are():
    assert (
        "It takes @train, @test, @label, @image, @mask, @size, @split, @ignore, @skip_bad, @crop, @interpolation."
        in refusal("hf:x@zzzz=1")
    )


@pytest.mark.parametrize("limit", ["train=0", "train=-1", "test=2.5", "test=all", "train=true"])
def test_a_limit_that_is_no_number_of_images_is_refused(limit):
    assert "@train and @test take a number of images, got" in refusal(f"digits@{limit}")


def test_limits_keep_the_first_images_of_each_split(digits):
    cut = load_data("digits@train=30@test=20")
    assert (len(cut.train), len(cut.test)) == (30, 20)
    assert torch.equal(cut.train.images, digits.train.images[:30])
    assert torch.equal(cut.test.labels, digits.test.labels[:20])
    assert cut.name == "digits@train=30@test=20"


def test_first_images_that_lack_classes_are_told(factory, caplog):
    by_class = Split(split(12).labels.sort().values, split(12).images)
    factory(lambda: small(by_class), "@train=6@test=6")
    assert [record.getMessage() for record in caplog.records] == [
        "The first 6 train images of 'python:user_data:make@train=6@test=6' show only 2 of 3 classes"
    ]


def test_a_limit_larger_than_the_split_keeps_all():
    assert len(load_data("digits@test=100000").test) == 359


def test_only_the_images_that_are_kept_are_decoded(factory):
    seen = []

    class Items(list):
        def __getitem__(self, index):
            seen.append(index)
            return Image.new("RGB", (8, 8)), 0

    items = Items(range(1000))
    made = small(Split(torch.zeros(1000).long(), items=items), Split(torch.zeros(1000).long(), items=items))
    found = factory(lambda: made, "@train=5@test=3")
    assert sorted(seen) == [0, 0, 1, 1, 2, 2, 3, 4]
    assert found.train.images.shape == (5, 3, 8, 8)


def test_a_factory_makes_data_and_takes_options(factory):
    found = factory(lambda count: small(split(count)), "@count=9@test=2")
    assert (len(found.train), len(found.test)) == (9, 2)
    assert found.name == "python:user_data:make@count=9@test=2"


def test_a_factory_that_fails_is_the_users_error(factory):
    with pytest.raises(DataError, match=r"'python:user_data:make' failed: TypeError: .*unexpected keyword argument 'count'"):
        factory(lambda: small(), "@count=9")
    with pytest.raises(DataError, match="failed: ZeroDivisionError"):
        factory(lambda: 1 / 0)


def test_a_factory_that_makes_something_else_is_refused(factory):
    with pytest.raises(DataError, match=r"must give a kdengine\.Data, got list"):
        factory(lambda: [1, 2])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train": Split(torch.tensor([0, 3]), split(2).images)}, "has the label 3, outside its 3 classes"),
        ({"test": Split(torch.tensor([0, -1]), split(2).images)}, "has the label -1, outside its 3 classes"),
        ({"train": Split(torch.zeros(0).long(), split(2).images[:0])}, "has an empty split"),
        ({"train": Split(torch.zeros(3).long(), split(2).images)}, "has 2 images and 3 labels in one split"),
        ({"train": Split(torch.zeros(3).long(), items=[1])}, "has 1 images and 3 labels in one split"),
        ({"train": Split(torch.zeros(2).long(), split(2).images.float())}, "uint8 [N, C, H, W] is needed"),
        ({"test": split(2, size=16)}, "has images torch.uint8 [2, 3, 16, 16], but uint8 [N, C, H, W] is needed"),
    ],
)
def test_unsound_data_is_refused_with_what_is_wrong(changes, said, factory):
    with pytest.raises(DataError) as caught:
        factory(lambda: small(**changes))
    assert said in str(caught.value)


def test_a_data_set_of_a_plugin_is_found_and_offered_as_a_near_name(distribution):
    source = """
    from kdengine import hookimpl
    import user_set

    @hookimpl
    def kdengine_register(registry):
        registry.dataset("acme-set", user_set.make)
    """
    point = distribution("acme-data", source)
    (point / "user_set.py").write_text(
        "import torch\nfrom kdengine import Data, Split\n"
        "def make(name, count=4):\n"
        "    part = Split(torch.zeros(count).long(), torch.zeros(count, 3, 8, 8, dtype=torch.uint8))\n"
        "    return Data(name, ('a', 'b'), (3, 8, 8), (), (), 'none', part, part)\n"
    )
    assert len(load_data("acme-set", Registry()).train) == 4
    assert len(load_data("acme-set:x@count=6", Registry()).train) == 6
    assert "Did you mean 'acme-set'?" in refusal("acme-sett", Registry())
    assert "Did you mean 'count'?" in refusal("acme-set@cout=3", Registry())
    assert "'acme-set@count=x' could not be loaded: TypeError" in refusal("acme-set@count=x", Registry())


def test_a_factory_of_a_plugin_that_is_not_written_in_python_is_called(distribution):
    source = "from kdengine import hookimpl\n\n@hookimpl\ndef kdengine_register(registry):\n    registry.dataset('odd', dict)\n"
    distribution("kdplugin-odd", source)
    assert "'odd' could not be loaded: ValueError" in refusal("odd", Registry())


@pytest.mark.parametrize("spec", ["imagefolder:~nobody/x", "imagefolder:" + "a" * 300, "hf:./" + "a" * 300, "imagefolder:\0"])
def test_what_cannot_be_a_folder_is_one_that_is_missing(spec):
    assert "There is no folder" in refusal(spec)


def test_a_factory_that_ends_the_program_is_the_users_error():
    assert refusal("python:sys:exit") == "'python:sys:exit' failed: SystemExit: no message."


def test_mean_and_deviation_are_those_of_numpy(digits):
    for images in (digits.train.images, split(50).images):
        pixels = images.numpy().astype(np.float64) / 255
        mean, std = statistics(images)
        assert mean == pytest.approx(pixels.mean((0, 2, 3)), abs=5.1e-5)
        assert std == pytest.approx(pixels.std((0, 2, 3)), abs=5.1e-5)
    assert digits.mean == statistics(digits.train.images)[0]


def test_an_image_of_one_colour_does_not_divide_by_zero():
    _, std = statistics(torch.full((4, 3, 8, 8), 7, dtype=torch.uint8))
    assert min(std) > 0


def test_given_mean_and_deviation_are_kept(factory):
    found = factory(lambda: small(mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0)))
    assert (found.mean, found.std) == ((0.1, 0.2, 0.3), (1.0, 1.0, 1.0))


def test_equal_data_has_equal_fingerprints_and_other_data_others(factory):
    def fingerprint(made):
        return factory(lambda: made).fingerprint

    base = fingerprint(small())
    assert fingerprint(small()) == base
    assert fingerprint(small(name="other")) == base
    brighter = split(12).images.clone()
    brighter[5, 0, 0, 0] ^= 1
    others = [
        small(train=Split(split(12).labels, brighter)),
        small(train=Split(split(12).labels.flip(0), split(12).images)),
        small(test=split(6, seed=2)),
        small(classes=("a", "b", "d")),
        small(train=split(11)),
    ]
    assert len({base, *map(fingerprint, others)}) == 6


def test_the_fingerprint_of_digits_is_always_the_same(digits):
    assert load_data("digits").fingerprint == digits.fingerprint
    assert load_data("digits@train=1437").fingerprint != digits.fingerprint


@pytest.fixture
def streamed(factory, monkeypatch):
    """Loads data that is too large for memory."""
    monkeypatch.setattr(decoding, "MEMORY_LIMIT", 0)

    def load(seed=0, mode="RGB", size=8):
        pixels = split(12, size=size, seed=seed).images
        items = [(Image.fromarray(image.permute(1, 2, 0).numpy()).convert(mode), n % 3) for n, image in enumerate(pixels)]
        part = Split(torch.arange(12) % 3, items=items)
        return factory(lambda: small(part, part, input_size=(3, size, size)))

    return load


def test_data_too_large_for_memory_is_streamed_and_normalised_by_its_own_statistics(streamed):
    found = streamed()
    assert found.train.images is None
    assert (found.mean, found.std) == statistics(split(12).images)
    batches = found.train_batches(TrainSettings(batch_size=5, workers=0), 0, CPU)
    assert isinstance(batches, StreamBatches)
    assert [batch.x.shape for batch in batches.epoch(0)] == [(5, 3, 8, 8), (5, 3, 8, 8), (2, 3, 8, 8)]
    assert found.train.first(4).items[3] == found.train.items[3]
    assert len(found.train.first(4)) == len(found.train.first(4).items) == 4


def test_streamed_test_images_are_the_images_normalised(streamed):
    found = streamed(size=32)
    (batch,) = found.test_batches(TrainSettings(workers=0), CPU).epoch(0)
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (found.mean, found.std))
    torch.testing.assert_close(batch.x, (split(12, size=32).images / 255 - mean) / std)


@pytest.fixture
def pictures(tmp_path):
    """A folder of images of two classes, none of them square and no two of one size."""
    random = np.random.default_rng(0)
    for part, count in (("train", 11), ("test", 5)):
        for label in ("ant", "bee"):
            place = tmp_path / "pictures" / part / label
            place.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 256, (20 + 3 * number, 40 - 2 * number, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{number:02}.png")
    return f"imagefolder:{tmp_path}/pictures@size=16"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_folder_gives_the_same_batches_from_memory_and_from_workers(pictures, workers, monkeypatch):
    held = load_data(pictures)
    monkeypatch.setattr(decoding, "MEMORY_LIMIT", 0)
    streamed = load_data(pictures)
    assert (held.train.images is None, streamed.train.images is None) == (False, True)
    assert (held.mean, held.std) == (streamed.mean, streamed.std)
    settings = TrainSettings(batch_size=4, workers=workers)
    both = held, streamed
    for make in (lambda data: data.train_batches(settings, 3, CPU), lambda data: data.test_batches(settings, CPU)):
        for epoch, start in ((0, 0), (1, 0), (1, 3)):
            one, other = ([*make(data).epoch(epoch, start)] for data in both)
            assert [len(batch) for batch in one] == [len(batch) for batch in other]
            for name in ("x", "y", "index"):
                pairs = zip(one, other, strict=True)
                assert all(torch.equal(getattr(ours, name), getattr(theirs, name)) for ours, theirs in pairs)


@pytest.mark.parametrize("limit", [0, decoding.MEMORY_LIMIT])
def test_statistics_of_items_are_those_of_evenly_spaced_images_in_memory_or_not(pictures, limit, monkeypatch):
    monkeypatch.setattr(decoding, "MEMORY_LIMIT", limit)
    monkeypatch.setattr(load, "STATISTICS_PIXELS", 5 * 16 * 16)
    data = load_data(pictures)
    images = decoding.decode(load_data(pictures).train.items, 16, 16) if not limit else data.train.images
    assert (data.mean, data.std) == statistics(images[[0, 4, 8, 13, 17]])


def test_statistics_look_at_all_of_cifar_and_at_one_image_however_large():
    assert torch.equal(load._evenly_spaced(50_000, 32 * 32), torch.arange(50_000))
    assert len(load._evenly_spaced(1_281_167, 224 * 224)) == 1337
    assert load._evenly_spaced(9, 2**30).tolist() == [0]


def test_statistics_of_images_in_memory_are_of_all_of_them(factory, monkeypatch):
    monkeypatch.setattr(load, "STATISTICS_PIXELS", 64)
    assert factory(small).mean == statistics(split(12).images)[0]


def test_fingerprints_of_streamed_data_tell_images_apart(streamed):
    assert streamed().fingerprint == streamed().fingerprint
    assert streamed().fingerprint != streamed(seed=1).fingerprint


def test_training_batches_are_shuffled_and_augmented_and_test_batches_are_not(digits):
    settings = TrainSettings(batch_size=200)
    train, test = digits.train_batches(settings, 0, CPU), digits.test_batches(settings, CPU)
    assert isinstance(train, MemoryBatches)
    assert (train.augmentation.crop, train.augmentation.flip, train.seed, train.batch_size) == (True, False, 0, 200)
    assert (test.augmentation, test.seed, test.batch_size) == (Augmentation(), None, 500)
    assert torch.equal(torch.cat([batch.y for batch in test.epoch(0)]), digits.test.labels)


@pytest.mark.parametrize(("augment", "kind"), [("rand-augment", HeldBatches), ("crop", MemoryBatches)])
def test_what_is_slow_to_augment_is_augmented_by_workers(digits, augment, kind):
    assert type(digits.train_batches(TrainSettings(augment=augment), 0, CPU)) is kind
    assert type(digits.train_batches(TrainSettings(augment=augment, workers=0), 0, CPU)) is MemoryBatches


def test_test_batches_are_never_smaller_than_training_batches(digits):
    assert digits.test_batches(TrainSettings(batch_size=1000), CPU).batch_size == 1000


def test_a_description_says_what_a_run_folder_keeps(digits):
    description = digits.describe()
    assert (description["train_images"], description["test_images"], description["num_classes"]) == (1438, 359, 10)
    assert description["fingerprint"] == digits.fingerprint
    assert description["classes"] == list("0123456789")
    assert replace(digits, fingerprint="x").describe()["fingerprint"] == "x"


@pytest.mark.parametrize(
    ("mean", "std", "said"),
    [
        ((0.5, 0.5), (0.5, 0.5), "2 means and 2 standard deviations for images of 3 channels"),
        ((0.5,) * 3, (), "3 means and 0 standard"),
        ((0.5,) * 3, (0.5, 0.0, 0.5), "each must be above 0"),
    ],
)
def test_a_normalisation_that_does_not_fit_the_channels_is_refused(mean, std, said):
    split = Split(torch.zeros(2, dtype=torch.int64), torch.zeros(2, 3, 4, 4, dtype=torch.uint8))
    with pytest.raises(DataError, match=said):
        ready(Data("mine", ("a", "b"), (3, 4, 4), mean, std, "none", split, split))
