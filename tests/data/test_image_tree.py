import logging
import os

import pytest
import torch
from PIL import Image

from kdengine import DataError
from kdengine.config.settings import TrainSettings
from kdengine.data import decoding
from kdengine.data.load import load_data


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """20 images at several depths, of which the red tells the number; and files that are not meant."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for number in range(20):
        folder = tmp_path / "photos" / ("", "2024", "2024/may")[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (10, 8), (number, 0, 0)).save(folder / f"{number}.{('png', 'PNG', 'bmp')[number % 3]}")
    (tmp_path / "photos" / "notes.txt").write_text("none")
    (tmp_path / "photos" / "._1.png").write_bytes(b"left by a file manager")
    (tmp_path / "photos" / ".thumbnails").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "photos" / ".thumbnails" / "1.png")
    os.symlink(tmp_path / "photos", tmp_path / "photos" / "2024" / "circle")
    return tmp_path / "photos"


def reds(split):
    return split.images[:, 0, 0, 0].tolist()


def test_all_images_below_a_folder_are_read_once_and_a_tenth_is_held_out(tree):
    data, again = load_data("images:~/photos"), load_data(f"images:{tree}")
    assert (data.task, data.classes, data.input_size) == ("unlabelled", (), (3, 8, 10))
    assert (len(data.train), len(data.test)) == (18, 2)
    assert sorted(reds(data.train) + reds(data.test)) == list(range(20))
    assert reds(data.test) == reds(again.test)
    assert data.train.labels.tolist() == [0] * 18
    assert len(load_data(f"images:{tree}@split=0.5@size=4").test) == 10


def test_they_are_streamed_if_they_do_not_fit(tree, monkeypatch):
    monkeypatch.setattr(decoding, "MEMORY_LIMIT", 0)
    data = load_data(f"images:{tree}@size=8")
    (batch,) = data.train_batches(TrainSettings(workers=0), 0, torch.device("cpu")).epoch(0)
    assert (batch.x.shape, batch.y.tolist()) == ((18, 3, 8, 8), [0] * 18)


def test_a_file_that_cannot_be_read_is_named_and_can_be_left_out(tree, caplog):
    (tree / "bad.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"cannot identify image file \('.*bad.png'\)"):
        load_data(f"images:{tree}")
    with caplog.at_level(logging.WARNING):
        data = load_data(f"images:{tree}@skip_bad=true")
    assert len(data.train) + len(data.test) == 20
    assert "Left out 1 of 21 images" in caplog.text


@pytest.mark.parametrize(("count", "said"), [(0, "there is none"), (1, "there is only '.*0.png'")])
def test_a_folder_with_too_few_images_is_refused(count, said, tmp_path):
    for number in range(count):
        Image.new("RGB", (4, 4)).save(tmp_path / f"{number}.png")
    with pytest.raises(DataError, match=f"needs at least two images.*{said}"):
        load_data(f"images:{tmp_path}")


def test_a_missing_folder_and_a_share_that_is_none_are_refused(tree):
    with pytest.raises(DataError, match="There is no folder '/none/here'"):
        load_data("images:/none/here")
    with pytest.raises(DataError, match=r"@split takes the share of images to hold out for testing, such as 0.2, got 2"):
        load_data(f"images:{tree}@split=2")
