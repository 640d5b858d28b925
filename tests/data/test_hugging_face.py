import io
import os
import warnings

import pytest
import torch
from PIL import Image

from kdengine.config.settings import TrainSettings
from kdengine.data import decoding
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
    assert "has no column 'fin' of labels. Choose one of coarse, fine with @label=COLUMN." in answer
    assert answer.endswith("It has img (Image), coarse (ClassLabel), fine (ClassLabel).")


def test_data_without_images_or_labels_is_refused(parquet):
    assert refusal(f"hf:{parquet(without=('coarse', 'fine'))}").endswith("has no labels. It has img (Image).")


def test_data_without_images_are_refused(table):
    answer = refusal(f"hf:{table({'size': [1.5, 2.5], 'label': [0, 1]})}")
    assert answer.endswith("has no column of images. Choose one with @image=COLUMN. It has size (float64), label (int64).")


def test_data_without_a_test_split_is_answered_with_the_splits_it_has(parquet):
    place = parquet(splits=("train",))
    answer = refusal(f"hf:{place}")
    assert "has the splits train, but needs 'train', and 'test' or 'validation' with labels." in answer
    assert answer.endswith(f"write hf:{place}@split=0.2")
    data = load_data(f"hf:{place}@split=0.5")
    assert (data.train.labels.tolist(), data.test.labels.tolist()) == ([0, 1], [0, 1])
    assert sorted(data.train.images[:, 0, 0, 0].tolist() + data.test.images[:, 0, 0, 0].tolist()) == [0, 1, 2, 3]


def test_data_without_a_training_split_are_refused(parquet):
    assert "has the splits test, but needs 'train'." in refusal(f"hf:{parquet(splits=('test',))}")


def test_a_validation_split_beside_a_test_split_chooses_the_best_epoch(parquet):
    place = parquet(splits=("train", "validation", "test"))
    data = load_data(f"hf:{place}")
    assert (len(data.train), len(data.validation), len(data.test)) == (4, 4, 4)
    assert "has test images already, in the split 'test'. Leave @split out" in refusal(f"hf:{place}@split=0.5")


@pytest.fixture
def table(tmp_path):
    """Writes a folder of parquet files with an image column and others, the same in each split but for changes."""
    import datasets

    bars = datasets.utils.logging.is_progress_bar_enabled()
    datasets.utils.logging.disable_progress_bar()

    def write(columns, features=None, splits=("train", "test"), **changes):
        place = tmp_path / "table"
        place.mkdir()
        for split in splits:
            values = {**columns, **changes.get(split, {})}
            kinds = datasets.Features(features) if features else None
            datasets.Dataset.from_dict(values, features=kinds).to_parquet(place / f"{split}-0.parquet")
        return place

    yield write
    if bars:
        datasets.utils.logging.enable_progress_bar()


IMAGES = [picture(number) for number in range(4)]


@pytest.mark.parametrize(
    ("labels", "classes", "indices"),
    [
        ([10, 9, 10, -3], ("-3", "9", "10"), [2, 1, 2, 0]),
        (["bee", "ant", "Cat", "bee"], ("Cat", "ant", "bee"), [2, 1, 0, 2]),
        ([True, False, True, True], ("False", "True"), [1, 0, 1, 1]),
    ],
    ids=["integers", "text", "truth values"],
)
def test_integers_and_text_are_converted_to_classes(labels, classes, indices, table):
    data = load_data(f"hf:{table({'image': IMAGES, 'label': labels})}")
    assert data.classes == classes
    assert (data.train.labels.tolist(), data.test.labels.tolist()) == (indices, indices)
    assert data.train.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3]


def test_the_classes_are_those_of_all_splits_together(table):
    data = load_data(f"hf:{table({'image': IMAGES, 'kind': list('abcb')}, test={'kind': list('dbaa')})}")
    assert data.classes == ("a", "b", "c", "d")
    assert data.test.labels.tolist() == [3, 1, 0, 0]


def test_the_columns_of_images_and_labels_can_be_chosen(table):
    others = [picture(100 + number) for number in range(4)]
    place = table({"image": IMAGES, "close": others, "kind": list("abab"), "place": list("xyyz")})
    assert refusal(f"hf:{place}").endswith(
        "has no column that must be the labels. Choose one of kind, place with @label=COLUMN. It has image (Image), close "
        "(Image), kind (string), place (string)."
    )
    data = load_data(f"hf:{place}@image=close@label=place")
    assert data.classes == ("x", "y", "z")
    assert data.train.images[:, 0, 0, 0].tolist() == [100, 101, 102, 103]
    assert "has no column 'clos' of images. Did you mean 'close'?" in refusal(f"hf:{place}@image=clos@label=place")


def test_encoded_images_in_a_plain_column_can_be_chosen(table):
    def encoded(image):
        file = io.BytesIO()
        image.save(file, "png")
        return file.getvalue()

    place = table({"pixels": list(map(encoded, IMAGES)), "label": [0, 1, 0, 1]})
    assert "Choose one with @image=COLUMN. It has pixels (binary), label (int64)." in refusal(f"hf:{place}")
    assert load_data(f"hf:{place}@image=pixels").train.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3]


def test_a_split_without_labels_is_not_used(table, caplog):
    splits = ("train", "validation", "test")
    place = table({"image": IMAGES, "label": [0, 1, 0, 1]}, splits=splits, test={"label": [-1] * 4})
    data = load_data(f"hf:{place}")
    assert (data.classes, len(data.test), data.validation) == (("0", "1"), 4, None)
    assert "the split 'test' has no labels and is not used" in caplog.text


def test_rows_without_a_label_are_counted(table):
    answer = refusal(f"hf:{table({'image': IMAGES, 'label': ['a', None, 'b', None]})}")
    assert answer.endswith("2 of 4 rows of 'train' have no 'label'. Remove them.")


def test_damaged_rows_are_left_out_if_that_is_asked_for(table, caplog):
    import datasets

    rows = [{"bytes": b"no image", "path": None} if number in (1, 2) else picture(number) for number in range(4)]
    kinds = {"image": datasets.Image(), "label": datasets.Value("string")}
    place = table({"image": rows, "label": list("abab")}, kinds)
    with pytest.raises(
        DataError, match=r"2 images cannot be used\. .* \(row 1 of 'train'\)\. .* \(row 2 of 'train'\)\."
    ) as caught:
        load_data(f"hf:{place}")
    assert "@skip_bad=true" in caught.value.__notes__[0]
    data = load_data(f"hf:{place}@skip_bad=true")
    assert (data.train.labels.tolist(), len(data.test)) == ([0, 1], 2)
    assert data.train.images[:, 0, 0, 0].tolist() == [0, 3]
    assert f"Left out 2 of 4 train images of 'hf:{place}'" in caplog.text


def test_unlabelled_images_are_refused(parquet):
    assert "has the label -1, outside its 3 classes" in refusal(f"hf:{parquet(labels=(0, 1, 2, -1))}@label=fine")


def test_a_folder_of_parquet_files_that_is_missing_is_named():
    assert refusal("hf:../no/such/folder") == f"There is no folder '../no/such/folder' in the current folder, '{os.getcwd()}'."


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


# masks and lists of labels ---------------------------------------------------------------------------------------------

MASKED = {"image": IMAGES, "annotation": [Image.new("L", (10, 10), number) for number in (0, 3, 255, 1)]}


def test_a_second_column_of_images_that_is_called_so_holds_masks(table):
    place = table({"annotation": MASKED["annotation"], "image": IMAGES, "kind": list("abab")})
    data = load_data(f"hf:{place}")
    assert (data.task, data.classes) == ("segmentation", ("0", "1", "2", "3"))
    assert data.train.labels[:, 5, 5].tolist() == [0, 3, 255, 1]
    assert data.train.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert load_data(f"hf:{place}@ignore=3").classes == ("0", "1")
    labelled = load_data(f"hf:{place}@label=kind@image=image")
    assert (labelled.task, labelled.classes) == ("classification", ("a", "b"))


def test_the_column_of_masks_can_be_chosen_and_is_streamed(table, monkeypatch):
    monkeypatch.setattr(decoding, "MEMORY_LIMIT", 0)
    place = table({"image": IMAGES, "depths": MASKED["annotation"], "label": [0, 1, 0, 1]})
    data = load_data(f"hf:{place}@mask=depths@size=8")
    (batch,) = data.test_batches(TrainSettings(workers=1), CPU).epoch(0)
    assert batch.y[:, 4, 4].tolist() == [0, 3, 255, 1]
    assert load_data(f"hf:{place}").task == "classification", "a column of another name holds no masks unasked"
    assert "takes @mask or @label, not both" in refusal(f"hf:{place}@mask=depths@label=label")
    assert "has no column 'label' of masks. Choose one with @mask=COLUMN." in refusal(f"hf:{place}@mask=label")
    assert "has no images beside the masks 'image'" in refusal(f"hf:{place}@mask=image@image=image")


def test_rows_without_a_mask_are_named_and_can_be_left_out(table, caplog):
    import datasets

    kinds = {"image": datasets.Image(), "mask": datasets.Image()}
    masks = [*MASKED["annotation"][:2], None, {"bytes": b"no image", "path": None}]
    place = table({"image": IMAGES, "mask": masks}, kinds)
    answer = refusal(f"hf:{place}")
    assert "there is no 'mask' (row 2 of 'train')" in answer
    assert "(row 3 of 'train')" in answer
    data = load_data(f"hf:{place}@skip_bad=true")
    assert data.train.labels[:, 0, 0].tolist() == [0, 3]


def test_a_list_of_labels_makes_multi_label_data(table):
    place = table({"image": IMAGES, "tags": [["cat"], ["dog", "cat"], [], ["ant"]]})
    data = load_data(f"hf:{place}")
    assert (data.task, data.classes) == ("multilabel", ("ant", "cat", "dog"))
    assert data.train.labels.tolist() == [[0, 1, 0], [0, 1, 1], [0, 0, 0], [1, 0, 0]]
    assert data.train.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3]


def test_lists_of_named_classes_keep_their_names_and_do_not_replace_single_labels(table):
    import datasets

    kinds = {
        "image": datasets.Image(),
        "all": datasets.List(datasets.ClassLabel(names=["x", "y"])),
        "kind": datasets.Value("string"),
    }
    place = table({"image": IMAGES, "all": [[0], [1], [0, 1], []], "kind": list("abab")}, kinds)
    assert load_data(f"hf:{place}").task == "classification"
    data = load_data(f"hf:{place}@label=all")
    assert (data.task, data.classes) == ("multilabel", ("x", "y"))
    assert data.test.labels.tolist() == [[1, 0], [0, 1], [1, 1], [0, 0]]
    assert "It has image (Image), all (list of ClassLabel), kind (string)." in refusal(f"hf:{place}@label=none")
