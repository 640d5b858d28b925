import numpy as np
import pytest
import torch
from PIL import Image

from kdengine import Engine
from kdengine.report.page import write_page
from kdengine.runs.samples import GAP, SHOWN, Samples
from kdengine.storage.names import SAMPLES
from kdengine.tasks import Segmentation

SIDE = 128
BACKGROUND = (224, 224, 224)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "seg"
    settings = {"data": "digit-scenes@target=masks@size=32@train=8@test=8", "epochs": 1, "teacher_train": {"epochs": 1}}
    Engine("seg:resnet8", "seg:resnet8", ["st"], out=folder, observers=[Samples()], **settings).fit()
    return folder


def test_images_targets_and_both_answers_stand_side_by_side(folder):
    picture = np.asarray(Image.open(folder / SAMPLES))
    assert picture.shape == (SHOWN * (SIDE + GAP) - GAP, 4 * (SIDE + GAP) - GAP, 3)
    image, target = (picture[:SIDE, place * (SIDE + GAP) :][:, :SIDE] for place in (0, 1))
    digit = (target != BACKGROUND).any(2)
    assert 0 < digit.sum() < digit.size
    assert image[digit].mean() > 2 * image[~digit].mean()  # the ink is where the mask says


def test_the_page_shows_them_without_another_file(folder, tmp_path):
    write_page(tmp_path / "page.html", [folder])
    page = (tmp_path / "page.html").read_text()
    assert "data:image/png;base64," in page
    assert "what the teacher and the student made of them" in page


def test_a_task_that_draws_nothing_leaves_no_pictures(tmp_path):
    settings = {"data": "digits@train=8@test=8", "epochs": 1}
    Engine(None, "resnet8", out=tmp_path / "run", observers=[Samples()], **settings).fit()
    assert not (tmp_path / "run" / SAMPLES).exists()


def test_each_class_has_a_colour_and_ignored_pixels_are_black():
    drawn = Segmentation(3).drawn(torch.tensor([[[0, 1], [2, 255]]]))
    colours = {tuple(drawn[0, :, row, column].tolist()) for row in range(2) for column in range(2)}
    assert len(colours) == 4
    assert tuple(drawn[0, :, 1, 1].tolist()) == (0, 0, 0)
    assert tuple(drawn[0, :, 0, 0].tolist()) == BACKGROUND
