from dataclasses import replace

import pytest

from kdengine import DataError, Engine
from kdengine.data.load import load_data

FAST = {"epochs": 1, "precision": "fp32", "device": "cpu", "batch_size": 32, "lr": 0.02}


def test_a_teachers_weights_are_refused_where_the_classes_have_another_order(tmp_path):
    data = load_data("digits@train=32@test=16")
    teacher = Engine(None, "resnet8", data=data, out=tmp_path / "teacher", **FAST).fit().folder
    other = replace(data, classes=tuple(reversed(data.classes)))
    for weights in (teacher, teacher / "student.safetensors"):
        with pytest.raises(DataError, match=r"the weights of '.*teacher.*'"):
            Engine("resnet8", "resnet8", ["st"], other, teacher_weights=weights, out=tmp_path / "run", **FAST).fit()
    assert not (tmp_path / "run").exists()
