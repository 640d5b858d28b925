"""A method in a file, and the command line in an empty folder."""

import pytest

METHOD = '''
import torch.nn.functional as F
from kdengine import Distiller
from torch import nn


class Mean(Distiller):
    """Match the embeddings.

    Source: made for this test.
    """

    name = "mean"
    taps = ("embedding",)
    presets = {"strong": {"power": 4.0}}

    class Options(Distiller.Options):
        power: float = 2.0
        """Exponent | of the difference."""

    def build(self, pair):
        self.map = nn.Linear(*(side["embedding"].shape[1] for side in (pair.student, pair.teacher)))

    def forward(self, step):
        difference = self.map(step.student["embedding"]) - step.teacher["embedding"]
        return {"mean": difference.abs().pow(self.options.power).mean()}
'''


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def my_kd(here):
    """The file, with pieces of its code replaced."""

    def write(*changes, name="my_kd.py"):
        code = METHOD
        for old, new in changes:
            assert old in code
            code = code.replace(old, new)
        file = here / name
        file.write_text(code, encoding="utf-8")
        return file

    return write
