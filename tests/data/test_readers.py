import multiprocessing
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from kdengine import Engine
from kdengine.config.settings import TrainSettings
from kdengine.data import decoding, load
from kdengine.data.load import load_data
from kdengine.errors import DataError

CPU = torch.device("cpu")


def refusal(text):
    with pytest.raises(DataError) as caught:
        load_data(text)
    return str(caught.value)


def picture(number, size=(10, 10)):
    return Image.new("RGB", size, (number, 2 * number % 256, 100))


# digits ---------------------------------------------------------------------------------------------------------------


def test_digits_have_the_facts_that_the_readme_states(digits):
    assert (len(digits.train), len(digits.test)) == (1438, 359)
    assert digits.input_size == (3, 32, 32)
    assert digits.train.images.shape == (1438, 3, 32, 32)
    assert digits.train.images.dtype == torch.uint8
    assert digits.classes == tuple("0123456789")


def test_digits_have_all_classes_about_equally_often(digits):
    train, test = (torch.bincount(split.labels, minlength=10) / len(split) for split in (digits.train, digits.test))
    assert 0.08 < train.min() < train.max() < 0.12
    assert 0.09 < test.min() < test.max() < 0.11


def test_digits_are_those_of_scikit_learn_enlarged_four_times(digits):
    from sklearn.datasets import load_digits

    bunch = load_digits()
    test = np.zeros(len(bunch.target), dtype=bool)
    for digit in range(10):
        before = int((bunch.target < digit).sum())  # every fifth is counted on through the classes
        test[[place for number, place in enumerate(np.flatnonzero(bunch.target == digit)) if (before + number) % 5 == 4]] = True
    for split, chosen in ((digits.train, ~test), (digits.test, test)):
        assert split.labels.tolist() == bunch.target[chosen].tolist()
        expected = np.kron(np.round(bunch.images[chosen] * 255 / 16), np.ones((1, 4, 4)))
        for channel in range(3):
            assert np.array_equal(split.images[:, channel].numpy(), expected)


# cifar ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_that_is_not_there_is_answered_with_what_to_do(name, tmp_path):
    answer = refusal(f"{name}@root={tmp_path}")
    assert answer.startswith(f"{name} could not be loaded: ")
    assert "give a folder: 'hf:FOLDER'" in answer


# imagefolder ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """Writes ``SPLIT/CLASS/NUMBER.png``; the red of a picture tells its class and number."""

    def write(held_out="test", classes=("ant", "bee"), test_classes=None, size=(10, 10), count=4):
        for split, names in (("train", classes), (held_out, test_classes or classes)):
            for label, name in enumerate(names):
                place = tmp_path / "pictures" / split / name
                place.mkdir(parents=True)
                for number in range(count):
                    picture(100 * label + number, size).save(place / f"{number}.png")
        return tmp_path / "pictures"

    return write


@pytest.mark.parametrize("held_out", ["test", "val", "validation"])
def test_a_folder_of_images_is_read_with_its_classes(folder, held_out):
    data = load_data(f"imagefolder:{folder(held_out)}")
    assert data.classes == ("ant", "bee")
    assert data.input_size == (3, 10, 10)
    assert (len(data.train), len(data.test)) == (8, 8)
    assert data.train.labels.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert data.train.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 100, 101, 102, 103]
    assert data.augment == "crop-flip"


def test_images_of_a_folder_are_resized_where_that_is_asked_for(folder):
    data = load_data(f"imagefolder:{folder()}@size=6@train=3@test=2")
    assert data.train.images.shape == (3, 3, 6, 6)
    assert data.test.images.shape == (2, 3, 6, 6)


def test_images_that_are_not_square_keep_their_shape(folder):
    assert load_data(f"imagefolder:{folder(size=(12, 8))}").input_size == (3, 8, 12)


def test_images_of_different_sizes_are_brought_to_one(folder):
    root = folder()
    picture(1, (20, 30)).save(root / "train" / "ant" / "odd.png")
    assert load_data(f"imagefolder:{root}").input_size == (3, 224, 224)


def test_a_folder_too_large_for_memory_is_read_by_workers(folder, monkeypatch):
    monkeypatch.setattr(decoding, "MEMORY_LIMIT", 0)
    data = load_data(f"imagefolder:{folder()}@size=16")
    assert data.train.images is None
    (batch,) = data.train_batches(TrainSettings(workers=1), 0, CPU).epoch(0)
    assert batch.x.shape == (8, 3, 16, 16)
    assert torch.equal(batch.y, data.train.labels[batch.index])


def test_a_folder_that_is_missing_is_named(tmp_path):
    assert refusal(f"imagefolder:{tmp_path}/none") == f"There is no folder '{tmp_path}/none'."


def test_a_folder_without_splits_is_answered_with_what_it_needs(tmp_path, folder):
    assert "needs a folder 'train' and a folder 'test' or 'val'" in refusal(f"imagefolder:{tmp_path}")
    assert "needs a folder 'train' and a folder 'test' or 'val'" in refusal(f"imagefolder:{folder('train2')}")


def test_splits_with_different_classes_are_refused_with_the_odd_ones(folder):
    root = folder(classes=("ant", "bee", "cat"), test_classes=("ant", "bee", "dog"))
    assert refusal(f"imagefolder:{root}").endswith("have different classes. Found in only one of them: cat, dog.")


def test_a_class_without_images_is_named(folder):
    root = folder()
    (root / "train" / "cow").mkdir()
    (root / "test" / "cow").mkdir()
    assert "cow" in refusal(f"imagefolder:{root}")


def test_an_image_that_cannot_be_read_is_an_error_of_the_data(folder):
    root = folder()
    (root / "train" / "ant" / "2.png").write_bytes(b"no image")
    assert "Image 2 cannot be read" in refusal(f"imagefolder:{root}")


def test_a_damaged_image_of_a_folder_is_named_by_its_file(folder):
    place = folder(size=(60, 60)) / "train" / "bee" / "1.png"
    whole = place.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:40] + bytes(40) + whole[80:], b""):
        place.write_bytes(damaged)
        answer = refusal(f"imagefolder:{place.parents[2]}")
        assert answer.startswith("Image 5 cannot be read: ")
        assert answer.endswith(f" ('{place}').")
        assert "<" not in answer


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_that_a_worker_finds_ends_a_run_with_one_line(workers, folder, monkeypatch, tmp_path):
    monkeypatch.setattr(decoding, "MEMORY_LIMIT", 0)
    root = folder(count=40, classes=("ant",), size=(32, 32))
    monkeypatch.setattr(load, "STATISTICS_PIXELS", 0)  # or every image would be looked at beforehand
    (root / "train" / "ant" / "1.png").write_bytes(b"no image")  # none of those that the fingerprint looks at
    engine = Engine(
        None, "resnet8", data=f"imagefolder:{root}@size=32", epochs=1, batch_size=8, workers=workers, out=tmp_path / "run"
    )
    with pytest.raises(DataError) as caught:
        engine.fit()
    place = root / "train" / "ant" / "1.png"
    assert str(caught.value) == f"Image 1 cannot be read: cannot identify image file ('{place}')."
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("size", ["large", "-1", "2.5", "true"])
def test_a_size_that_is_no_number_of_pixels_is_refused(folder, size):
    assert "@size takes a number of pixels" in refusal(f"imagefolder:{folder()}@size={size}")


# hf -------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def parquet(tmp_path):
    """Writes a folder of parquet files in the layout of Hugging Face ``datasets``."""
    import datasets

    def write(splits=("train", "test"), mode="RGB", labels=(0, 1, 2, 1), **more):
        features = {"img": datasets.Image(), "coarse": datasets.ClassLabel(names=["x", "y"])}
        features |= {"fine": datasets.ClassLabel(names=["a", "b", "c"])}
        place = tmp_path / "parquet"
        place.mkdir()
        for split in splits:
            columns = {"img": [picture(n).convert(mode) for n in range(4)], "coarse": [0, 1, 0, 1], "fine": list(labels)}
            kept = {name: features[name] for name in features if name not in more.get("without", ())}
            table = {name: columns[name] for name in kept}
            datasets.Dataset.from_dict(table, features=datasets.Features(kept)).to_parquet(place / f"{split}-0.parquet")
        return place

    with warnings.catch_warnings():
        bars = datasets.utils.logging.is_progress_bar_enabled()
        datasets.utils.logging.disable_progress_bar()
        yield write
        if bars:
            datasets.utils.logging.enable_progress_bar()


def test_a_folder_of_parquet_files_is_read(parquet, capfd):
    import datasets

    place = parquet()
    capfd.readouterr()
    datasets.utils.logging.enable_progress_bar()
    data = load_data(f"hf:{place}")
    assert capfd.readouterr() == ("", "")
    assert datasets.utils.logging.is_progress_bar_enabled()
    assert data.classes == ("x", "y")
    assert data.train.labels.tolist() == [0, 1, 0, 1]
    assert data.train.images[:, :, 0, 0].tolist() == [[0, 0, 100], [1, 2, 100], [2, 4, 100], [3, 6, 100]]
    assert data.input_size == (3, 10, 10)


def test_the_column_of_labels_can_be_chosen(parquet):
    data = load_data(f"hf:{parquet()}@label=fine@train=3@test=2@size=5")
    assert data.classes == ("a", "b", "c")
    assert data.train.labels.tolist() == [0, 1, 2]
    assert data.test.images.shape == (2, 3, 5, 5)


def test_a_validation_split_stands_in_for_a_test_split(parquet):
    assert len(load_data(f"hf:{parquet(splits=('train', 'validation'))}").test) == 4


def test_grey_images_are_streamed_in_three_channels(parquet, monkeypatch):
    monkeypatch.setattr(decoding, "MEMORY_LIMIT", 0)
    data = load_data(f"hf:{parquet(mode='L')}@size=8")
    (batch,) = data.test_batches(TrainSettings(workers=1), CPU).epoch(0)
    assert batch.x.shape == (4, 3, 8, 8)
    assert batch.y.tolist() == [0, 1, 0, 1]


def test_an_unknown_column_of_labels_is_answered_with_those_there_are(parquet):
    answer = refusal(f"hf:{parquet()}@label=fin")
    assert "but has img (Image), coarse (ClassLabel), fine (ClassLabel)" in answer
    assert "Labels are in coarse, fine: choose with @label=COLUMN." in answer


def test_data_without_images_or_labels_is_refused(parquet):
    assert "needs an Image column and a ClassLabel column" in refusal(f"hf:{parquet(without=('coarse', 'fine'))}")


def test_data_without_a_test_split_is_answered_with_the_splits_it_has(parquet):
    assert "has the splits train, but needs 'train', and 'test' or 'validation'." in refusal(f"hf:{parquet(splits=('train',))}")


def test_unlabelled_images_are_refused(parquet):
    assert "has the label -1, outside its 3 classes" in refusal(f"hf:{parquet(labels=(0, 1, 2, -1))}@label=fine")


def test_a_folder_of_parquet_files_that_is_missing_is_named():
    assert refusal("hf:../no/such/folder") == "There is no folder '../no/such/folder'."


def test_a_parquet_file_that_was_cut_off_is_an_error_of_the_data(parquet, caplog):
    place = parquet() / "train-0.parquet"
    whole = place.read_bytes()
    for rest in (whole[: len(whole) // 2], b""):
        place.write_bytes(rest)
        answer = refusal(f"hf:{place.parent}")
        assert answer.startswith(f"'hf:{place.parent}' could not be loaded: ")
        assert "Parquet" in answer


@pytest.mark.parametrize("limit", [0, decoding.MEMORY_LIMIT])
def test_a_damaged_image_of_a_parquet_file_is_named(limit, parquet, monkeypatch):
    import datasets

    monkeypatch.setattr(decoding, "MEMORY_LIMIT", limit)
    place = parquet() / "train-0.parquet"
    table = datasets.Dataset.from_parquet(str(place)).cast_column("img", datasets.Image(decode=False)).to_list()
    table[2]["img"]["bytes"] = table[2]["img"]["bytes"][:50]
    features = datasets.Dataset.from_parquet(str(place)).features
    datasets.Dataset.from_list(table, features=features).to_parquet(place)
    assert refusal(f"hf:{place.parent}").startswith("Image 2 cannot be read: ")


def test_a_hub_name_that_cannot_be_reached_is_an_error_of_the_data():
    assert refusal("hf:nobody/no-such-data").startswith("'hf:nobody/no-such-data' could not be loaded: ")


@pytest.fixture(scope="module")
def cifar100(real_data, tmp_path_factory):
    """A folder with a part of CIFAR-100: the test images, and those again for training."""
    place = tmp_path_factory.mktemp("cifar100")
    for split in ("train", "test"):
        (place / f"{split}-0.parquet").symlink_to(real_data / "cifar100" / "test-00000-of-00001.parquet")
    return place


def test_cifar100_is_read_with_its_classes_and_pixels(cifar100):
    data = load_data(f"hf:{cifar100}@train=2000@test=300")
    assert (data.num_classes, data.classes[0], data.classes[99]) == (100, "apple", "worm")
    assert data.train.images.shape == (2000, 3, 32, 32)
    assert torch.bincount(data.train.labels, minlength=100).min() > 0
    assert data.mean == pytest.approx((0.5071, 0.4865, 0.4409), abs=0.02)
    assert data.std == pytest.approx((0.2673, 0.2564, 0.2762), abs=0.02)
    assert torch.equal(data.test.images, data.train.images[:300])


def test_the_coarse_labels_of_cifar100_are_no_default(cifar100):
    assert "fine_label" in refusal(f"hf:{cifar100}@label=coarse_label")
