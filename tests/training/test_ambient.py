"""What a notebook has set in torch changes neither whether a run trains nor its numbers."""

import pytest
import torch
from torch import nn

from kdengine import Comparison, Engine, SettingsError

SMALL = {"data": "digits@train=32@test=16", "precision": "fp32", "device": "cpu", "batch_size": 16, "epochs": 1}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 10))


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return Engine(network(), network(), ["st"], out=tmp_path_factory.mktemp("alone") / "run", **SMALL).fit()


@pytest.mark.parametrize(
    "around",
    [
        torch.no_grad,
        torch.inference_mode,
        lambda: torch.autocast("cpu", torch.bfloat16),
        lambda: torch.device("meta"),
    ],
)
def test_a_run_is_the_same_whatever_is_set_around_it(around, expected, tmp_path):
    teacher, student = network(), network()
    with around():
        before = torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), torch.get_default_device()
        result = Engine(teacher, student, ["st"], out=tmp_path / "run", **SMALL).fit()
        assert before == (torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), torch.get_default_device())
    for name, value in expected.student.state_dict().items():
        assert torch.equal(value, result.student.state_dict()[name]), name


def test_so_is_a_comparison(expected, tmp_path):
    teacher, student = network(), network()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        board = Comparison(teacher, student, ["st"], out=tmp_path / "run", **SMALL).fit()
    (row,) = [row for row in board.rows if row["method"] == "st"]
    assert row["failure"] == ""
    assert row["top1"] == expected.top1


def test_another_default_dtype_is_refused():
    torch.set_default_dtype(torch.float64)
    try:
        with pytest.raises(SettingsError, match=r"default dtype is float64.*set_default_dtype\(torch\.float32\)"):
            Engine(None, "resnet8", **SMALL).fit()
    finally:
        torch.set_default_dtype(torch.float32)
