import multiprocessing

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


@pytest.mark.parametrize("held_out", ["test", "val", "validation", "valid"])
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


def test_splits_are_not_taken_for_classes(folder):
    root = folder()
    for name in ("train", "test"):
        (root / name).rename(root / name.capitalize())
    assert "has the folders Test, Train, which would be its classes. If they are splits" in refusal(
        f"imagefolder:{root}@split=0.5"
    )


def test_a_folder_around_the_classes_is_not_taken_for_a_class(folder):
    root = folder()
    (root / "test").rename(root.parent / "elsewhere")
    (root / "train").rename(root / "flowers")
    said = refusal(f"imagefolder:{root}@split=0.5")
    assert "a single folder, flowers, which holds folders in turn (ant, bee)" in said
    assert f"'imagefolder:{root}/flowers@split=0.2'" in said


def test_classes_without_images_are_named(folder):
    root = folder()
    (root / "train" / "wasp").mkdir()
    (root / "train" / "wasp" / "notes.txt").touch()
    said = refusal(f"imagefolder:{root}")
    assert f"there are no images in wasp of '{root / 'train'}'. Remove what is no class, or add images" in said


def test_a_folder_that_is_missing_is_named(tmp_path):
    assert refusal(f"imagefolder:{tmp_path}/none") == f"There is no folder '{tmp_path}/none'."


def test_a_folder_without_splits_is_answered_with_what_it_needs(tmp_path, folder):
    assert "needs a folder 'train' and a folder 'test' or 'val'" in refusal(f"imagefolder:{tmp_path}")
    root = folder("train2")
    answer = refusal(f"imagefolder:{root}")
    assert "needs a folder 'train' and a folder 'test' or 'val'" in answer
    assert answer.endswith(f"write imagefolder:{root}@split=0.2")


def reds(split):
    return split.images[:, 0, 0, 0].tolist()


@pytest.mark.parametrize("part", ["", "train"], ids=["train alone", "classes directly"])
def test_a_share_of_each_class_is_held_out_for_testing(part, folder):
    spec = f"imagefolder:{folder('elsewhere', count=10) / part}@split=0.3"
    data, again = load_data(spec), load_data(spec)
    assert (data.train.labels.bincount().tolist(), data.test.labels.bincount().tolist()) == ([7, 7], [3, 3])
    assert sorted(reds(data.train) + reds(data.test)) == [*range(10), *range(100, 110)]
    assert reds(again.test) == reds(data.test)
    assert (data.classes, data.validation) == (("ant", "bee"), None)


def test_the_share_of_one_class_does_not_depend_on_the_others(folder):
    root = folder("elsewhere", count=10) / "train"
    before = reds(load_data(f"imagefolder:{root}@split=0.3").test)[3:]
    picture(50).save(root / "ant" / "new.png")
    assert reds(load_data(f"imagefolder:{root}@split=0.3").test)[3:] == before


def test_class_folders_without_a_split_are_answered_with_the_option_that_makes_one(folder):
    root = folder() / "train"
    answer = refusal(f"imagefolder:{root}")
    assert "has one folder per class (ant, bee), but no test images" in answer
    assert answer.endswith(f"write imagefolder:{root}@split=0.2")


def test_a_share_to_hold_out_is_refused_where_there_are_test_images(folder):
    assert "has test images already, in 'test'. Leave @split out" in refusal(f"imagefolder:{folder()}@split=0.2")


@pytest.mark.parametrize("share", ["0", "1", "1.5", "-0.1", "true", "half"])
def test_a_share_that_is_none_is_refused(share, folder):
    assert "@split takes the share of images" in refusal(f"imagefolder:{folder() / 'train'}@split={share}")


def test_hidden_folders_are_no_classes_and_a_class_may_be_called_train(folder):
    root = folder(classes=("train", "truck"), count=5) / "train"
    (root / ".ipynb_checkpoints").mkdir()
    data = load_data(f"imagefolder:{root}@split=0.2")
    assert (data.classes, len(data.train), len(data.test)) == (("train", "truck"), 8, 2)


@pytest.mark.parametrize("limit", [0, decoding.MEMORY_LIMIT], ids=["streamed", "in memory"])
def test_val_beside_test_chooses_the_best_epoch(limit, folder, monkeypatch):
    monkeypatch.setattr(decoding, "MEMORY_LIMIT", limit)
    root = folder()
    alone = load_data(f"imagefolder:{root}")
    for label, name in enumerate(("ant", "bee")):
        (root / "val" / name).mkdir(parents=True)
        picture(200 + label).save(root / "val" / name / "0.png")
    data = load_data(f"imagefolder:{root}")
    assert (len(data.train), len(data.validation), len(data.test)) == (8, 2, 8)
    (batch,) = data.validation_batches(TrainSettings(workers=0), CPU).epoch(0)
    assert batch.y.tolist() == [0, 1]
    assert (data.validation.images is None) == (limit == 0)
    assert data.describe()["validation_images"] == 2
    assert data.fingerprint != alone.fingerprint
    assert data.holding_out(0.5) is data
    (root / "val" / "cat").mkdir()
    picture(1).save(root / "val" / "cat" / "0.png")
    assert "'train' and 'val' have different classes. Found in only one of them: cat." in refusal(f"imagefolder:{root}")


def test_a_run_on_a_folder_with_val_and_test_chooses_its_best_epoch_by_val(folder, tmp_path):
    root = folder(count=8, size=(32, 32))
    for name in ("ant", "bee"):
        (root / "val" / name).mkdir(parents=True)
        picture(100 * (name == "ant"), (32, 32)).save(root / "val" / name / "0.png")
    run = {"epochs": 3, "lr": 0.02, "batch_size": 8, "precision": "fp32", "device": "cpu", "out": tmp_path / "run"}
    result = Engine(None, "resnet8", data=f"imagefolder:{root}", **run).fit()
    assert all({"val_top1", "test_top1"} <= set(row) for row in result.history)
    best = max(result.history, key=lambda row: row["val_top1"])
    assert result.facts["student"]["best_val_top1"] == best["val_top1"]
    assert result.best_top1 == best["test_top1"]


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
    root = folder(count=20, classes=("ant", "bee"), size=(32, 32))
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


@pytest.fixture
def damaged(folder):
    """A folder of two classes in which seven training images are damaged, and one test image."""
    root = folder(count=6)
    for name in ("ant", "bee"):
        for number in (0, 2, 3):
            (root / "train" / name / f"{number}.png").write_bytes(b"no image")
    (root / "train" / "bee" / "4.png").write_bytes(b"")
    (root / "test" / "ant" / "5.png").write_bytes(b"no image")
    return root


def test_several_damaged_images_are_named_at_once_with_the_remedy(damaged):
    with pytest.raises(DataError) as caught:
        load_data(f"imagefolder:{damaged}")
    answer = str(caught.value)
    assert answer.startswith("7 images cannot be used. Image 0 cannot be read: cannot identify image file (")
    assert answer.endswith("And 2 more.")
    assert [f"{damaged}/train/{file}.png" in answer for file in ("ant/0", "ant/2", "ant/3", "bee/0", "bee/2", "bee/3")] == [
        *[True] * 5,
        False,
    ]
    assert caught.value.__notes__ == ["To leave out images that cannot be read, add @skip_bad=true to the data."]


@pytest.mark.parametrize("limit", [0, decoding.MEMORY_LIMIT], ids=["streamed", "in memory"])
def test_damaged_images_are_left_out_if_that_is_asked_for_and_it_is_said_which(limit, damaged, monkeypatch, caplog):
    monkeypatch.setattr(decoding, "MEMORY_LIMIT", limit)
    with caplog.at_level("WARNING", "kdengine"):
        data = load_data(f"imagefolder:{damaged}@skip_bad=true")
    train, test = (record.getMessage() for record in caplog.records)
    assert train.startswith(f"Left out 7 of 12 train images of '{damaged}': Image 0 cannot be read: ")
    assert test.startswith(f"Left out 1 of 12 test images of '{damaged}': Image 5 cannot be read: ")
    assert f"('{damaged}/test/ant/5.png')" in test
    assert (data.train.labels.tolist(), len(data.test)) == ([0, 0, 0, 1, 1], 11)
    batches = data.train_batches(TrainSettings(workers=0, augment="none"), 0, CPU).epoch(0)
    assert sum(len(batch) for batch in batches) == 5


def test_nothing_is_said_where_all_images_can_be_read(folder, caplog):
    assert len(load_data(f"imagefolder:{folder()}@skip_bad=true").train) == 8
    assert caplog.records == []


def test_an_answer_that_is_neither_true_nor_false_is_refused(folder):
    assert "@skip_bad takes true or false, got 'maybe'" in refusal(f"imagefolder:{folder()}@skip_bad=maybe")


@pytest.mark.parametrize("size", ["6x9", "6X9", "[6,9]"])
def test_a_size_may_have_rows_and_columns(size, folder):
    assert load_data(f"imagefolder:{folder()}@size={size}").train.images.shape == (8, 3, 6, 9)


@pytest.mark.parametrize("size", ["large", "-1", "2.5", "true", "0", "6x", "6x-9", "[6]", "[6,7,8]", "[true,6]", "99999"])
def test_a_size_that_is_no_number_of_pixels_is_refused(folder, size):
    assert "@size takes a number of pixels" in refusal(f"imagefolder:{folder()}@size={size}")


def framed(size=(16, 16)):
    """White, with a black frame a quarter of the sides wide."""
    image = Image.new("RGB", size)
    image.paste((255, 255, 255), (size[0] // 4, size[1] // 4, 3 * size[0] // 4, 3 * size[1] // 4))
    return image


@pytest.mark.parametrize("limit", [decoding.MEMORY_LIMIT, 0], ids=["memory", "stream"])
def test_only_the_centre_of_test_images_is_measured_where_that_is_asked_for(folder, monkeypatch, limit):
    monkeypatch.setattr(decoding, "MEMORY_LIMIT", limit)
    root = folder(count=2)
    for file in root.rglob("*.png"):
        framed().save(file)
    data = load_data(f"imagefolder:{root}@size=8@crop=0.5@interpolation=nearest")
    settings = TrainSettings(augment="none", workers=0)
    train, test = data.train_batches(settings, 0, CPU), data.test_batches(settings, CPU)
    (shown,), (measured,) = train.epoch(0), test.epoch(0)
    assert len(measured.x[:, 0].unique()) == 1, "the frame is cut off"
    assert len(shown.x[:, 0].unique()) == 2
    assert data.describe()["fitting"] == {"crop": 0.5, "interpolation": "nearest"}


@pytest.mark.parametrize(
    ("option", "message"),
    [("crop=0", "@crop takes the share"), ("crop=1.5", "got 1.5"), ("interpolation=bicubik", "Did you mean 'bicubic'")],
)
def test_a_crop_or_an_interpolation_that_is_none_is_refused(folder, option, message):
    assert message in refusal(f"imagefolder:{folder()}@{option}")
