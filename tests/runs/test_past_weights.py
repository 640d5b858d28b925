import json
from dataclasses import replace

import pytest

from kdengine import DataError, Engine
from kdengine.config.settings import InputSettings
from kdengine.data.load import load_data
from kdengine.runs.past_weights import input_of_run

FAST = {"epochs": 1, "precision": "fp32", "device": "cpu", "batch_size": 32, "lr": 0.02}


def test_a_teachers_weights_are_refused_where_the_classes_have_another_order(tmp_path):
    data = load_data("digits@train=32@test=16")
    teacher = Engine(None, "resnet8", data=data, out=tmp_path / "teacher", **FAST).fit().folder
    other = replace(data, classes=tuple(reversed(data.classes)))
    for weights in (teacher, teacher / "student.safetensors"):
        with pytest.raises(DataError, match=r"the weights of '.*teacher.*'"):
            Engine("resnet8", "resnet8", ["st"], other, teacher_weights=weights, out=tmp_path / "run", **FAST).fit()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("file", ["", "student.safetensors", "student-best.safetensors"])
def test_a_finished_run_says_what_its_weights_were_trained_on(file, run_folder):
    folder = run_folder("trained", method="plain")
    result = json.loads((folder / "result.json").read_text())
    assert input_of_run(str(folder / file)) == InputSettings(), "a folder that does not know"
    result["student"]["input"] = {"size": [3, 24, 24], "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    (folder / "result.json").write_text(json.dumps(result))
    expected = InputSettings(size=24, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    assert input_of_run(str(folder / file)) == expected
    assert input_of_run(str(folder / "other.pth")) == InputSettings()
