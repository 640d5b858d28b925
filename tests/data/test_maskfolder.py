import logging

import numpy as np
import pytest
import torch
from PIL import Image

from kdengine import DataError
from kdengine.config.settings import TrainSettings
from kdengine.data import decoding
from kdengine.data.load import load_data

CPU = torch.device("cpu")
SETTINGS = TrainSettings(workers=0, batch_size=4)


def refusal(text):
    with pytest.raises(DataError) as caught:
        load_data(text)
    return "\n".join([str(caught.value), *getattr(caught.value, "__notes__", ())])


def mask(number, size=(12, 10)):
    """The left half is background, the right half class 1 or 2 by number, and the first row is ignored."""
    values = np.zeros((size[1], size[0]), np.uint8)
    values[:, size[0] // 2 :] = 1 + number % 2
    values[0] = 255
    return Image.fromarray(values)


@pytest.fixture
def folder(tmp_path):
    """Writes ``PART/images/NUMBER.jpg``, or ``images/PART``, and masks of the same names; the red tells the number."""

    def write(parts=("train", "test"), layout="{part}/{kind}", count=6, mode="L"):
        for part in parts:
            for number in range(count):
                for kind, picture, ending in (
                    ("images", Image.new("RGB", (12, 10), (10 * number, 0, 0)), "bmp"),
                    ("masks", mask(number).convert(mode) if mode != "P" else palette(number), "png"),
                ):
                    file = tmp_path / "set" / layout.format(part=part, kind=kind).strip("/") / f"{number}.{ending}"
                    file.parent.mkdir(parents=True, exist_ok=True)
                    picture.save(file)
        return tmp_path / "set"

    return write


def palette(number):
    found = mask(number)
    found.putpalette([value // 3 for value in range(768)])
    return found


@pytest.mark.parametrize("mode", ["L", "P"])
@pytest.mark.parametrize("layout", ["{part}/{kind}", "{kind}/{part}"])
def test_images_and_masks_of_the_same_names_are_read(layout, mode, folder):
    data = load_data(f"maskfolder:{folder(layout=layout, mode=mode)}")
    assert (data.task, data.classes, data.input_size) == ("segmentation", ("0", "1", "2"), (3, 10, 12))
    assert data.train.images[:, 0, 5, 5].tolist() == [0, 10, 20, 30, 40, 50]
    assert torch.equal(data.train.labels, torch.stack([torch.from_numpy(np.array(mask(number))) for number in range(6)]))
    batch = next(iter(data.train_batches(SETTINGS, 0, CPU).epoch(0)))
    assert (batch.x.shape, batch.y.shape, batch.y.dtype) == ((4, 3, 10, 12), (4, 10, 12), torch.int64)


def test_names_are_read_from_a_file_and_no_mask_may_show_others(folder):
    root = folder()
    (root / "classes.txt").write_text("wall\nfloor\nroof\n\ndoor\n")
    assert load_data(f"maskfolder:{root}").classes == ("wall", "floor", "roof", "door")
    (root / "classes.txt").write_text("wall\nfloor\n")
    said = refusal(f"maskfolder:{root}")
    assert said.startswith("3 images cannot be used. ")
    assert f"'{root}/train/masks/1.png' has a mask with the value 2, but its 2 classes count from 0 to 1." in said


def test_values_that_belong_to_no_class_can_be_named(folder):
    root = folder()
    data = load_data(f"maskfolder:{root}@ignore=2")
    assert data.classes == ("0", "1")
    assert data.train.labels[1].unique().tolist() == [0, 255]
    assert refusal(f"maskfolder:{root}@ignore=300").startswith(f"'{root}': @ignore takes a value from 0 to 255")


@pytest.mark.parametrize("parts", [("train",), ("",)], ids=["train alone", "directly"])
def test_a_share_is_held_out_if_there_are_no_test_images(parts, folder):
    root = folder(parts)
    data = load_data(f"maskfolder:{root}@split=0.34")
    assert (len(data.train), len(data.test)) == (4, 2)
    assert all(int(split.labels[at].max()) == 255 for split in (data.train, data.test) for at in range(len(split)))
    assert refusal(f"maskfolder:{root}").endswith(f"write maskfolder:{root}@split=0.2")


def test_val_beside_test_chooses_the_best_epoch(folder):
    root = folder(("train", "val", "test"))
    data = load_data(f"maskfolder:{root}@train=3@test=2")
    assert [len(split) for split in (data.train, data.validation, data.test)] == [3, 6, 2]
    assert "has test images already, in 'test'. Leave @split out" in refusal(f"maskfolder:{root}@split=0.2")


def test_other_sizes_are_fitted_alike_held_and_streamed(folder, monkeypatch):
    root = folder()
    mask(0, (24, 20)).save(root / "train" / "masks" / "0.png")
    held = load_data(f"maskfolder:{root}@size=8")
    monkeypatch.setattr(decoding, "MEMORY_LIMIT", 0)
    streamed = load_data(f"maskfolder:{root}@size=8")
    assert streamed.train.images is None
    for one, other in zip(*(data.train_batches(SETTINGS, 1, CPU).epoch(2) for data in (held, streamed)), strict=True):
        assert torch.equal(one.x, other.x)
        assert torch.equal(one.y, other.y)


def test_an_image_without_a_mask_and_a_damaged_mask_are_named_and_can_be_left_out(folder, caplog):
    root = folder()
    (root / "train" / "masks" / "2.png").unlink()
    assert f"1 image without a mask. A mask is in 'masks' under the name of its image, as a PNG: {root}/train/images/2.bmp" in (
        refusal(f"maskfolder:{root}")
    )
    Image.new("L", (12, 10)).save(root / "train" / "masks" / "2.png")
    whole = (root / "train" / "masks" / "4.png").read_bytes()
    (root / "train" / "masks" / "4.png").write_bytes(whole[:-40])
    said = refusal(f"maskfolder:{root}")
    assert f"'{root}/train/masks/4.png'" in said
    assert said.endswith("add @skip_bad=true to the data.")
    (root / "train" / "masks" / "2.png").unlink()
    with caplog.at_level(logging.WARNING):
        data = load_data(f"maskfolder:{root}@skip_bad=true")
    assert data.train.images[:, 0, 0, 0].tolist() == [0, 10, 30, 50]
    assert "Left out 2 of 6 train images" in caplog.text


def test_a_mask_of_other_proportions_or_in_colours_is_refused_by_name(folder):
    root = folder()
    Image.new("L", (10, 12)).save(root / "test" / "masks" / "1.png")
    assert f"'{root}/test/masks/1.png' has 12 x 10 pixels, but its mask 10 x 12" in refusal(f"maskfolder:{root}")
    Image.new("RGB", (12, 10)).save(root / "test" / "masks" / "1.png")
    assert f"'{root}/test/masks/1.png' has a mask of mode RGB" in refusal(f"maskfolder:{root}")


def test_a_folder_of_another_layout_is_answered_with_what_it_needs(folder, tmp_path):
    assert "needs a folder 'images' and a folder 'masks', both in 'train'" in refusal(f"maskfolder:{tmp_path}")
    root = folder()
    assert f"Did you mean 'maskfolder:{root}'?" in refusal(str(root))
