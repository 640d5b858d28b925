import sys
import textwrap
from pathlib import Path

import pytest

from kdengine import Comparison, Engine, SettingsError
from kdengine.config.settings import Settings
from kdengine.config.trust import check_trusted, names_code
from kdengine.runs.evaluate_run import evaluate_folder
from kdengine.runs.lane_specs import LaneSpec
from kdengine.storage.runfolder import RunFolder
from kdengine.storage.writing import write_json


@pytest.mark.parametrize(
    "values",
    [
        {"student": "python:mine:make"},
        {"data": "python:mine:data@train=3"},
        {"methods": ["st", "./my_kd.py"]},
        {"methods": ["./my_kd.py:second"]},
        {"methods": "elsewhere/my_kd.py"},
        {"methods": ["mdistiller:DKD.py"]},
        {"methods": ["mdistiller:tree/distillers/DKD.py:DKD"]},
        {"options": {"takd": {"assistants": ["resnet14", "python:mine:make"]}}},
        {"options": {"dml": {"peers": "student, python:mine:make"}}},
    ],
)
def test_what_would_be_imported_is_found_wherever_it_is_named(values):
    assert len(names_code(values)) == 1
    with pytest.raises(SettingsError, match=r"'run.toml' names code that would be run here: .*--trust"):
        check_trusted(values, "run.toml", trust=False)
    check_trusted(values, "run.toml", trust=True)


@pytest.mark.parametrize(
    "values",
    [
        {"student": "timm:resnet18", "teacher": "hf-hub:timm/resnet18.a1_in1k", "data": "hf:./folder", "methods": ["rkd"]},
        {
            "methods": ["kdplugin-mbd:mbd-hard"],
            "options": {"st": {"alpha": 0.5}},
            "teacher_weights": "runs/a/student.safetensors",
        },
        {"data": "imagefolder:~/pythonic"},
        {},
    ],
)
def test_installed_methods_networks_by_name_and_files_of_weights_are_no_code(values):
    assert names_code(values) == []


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """A module that leaves a mark when it is imported, in the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "trap", raising=False)
    (tmp_path / "trap.py").write_text(
        textwrap.dedent("""
        from pathlib import Path
        from kdengine import Distiller
        from kdengine.data.load import load_data
        from timm import create_model
        Path("sprung").touch()

        def data():
            return load_data("digits@train=32@test=16")

        def network(num_classes):
            return create_model("test_resnet", num_classes=num_classes)
    """)
    )
    return tmp_path / "sprung"


def folder(settings):
    place = RunFolder("run")
    place.begin(Settings.checked({"student": "timm:test_resnet", "train": {"epochs": 1}, **settings}), {})
    place.free()
    return place.path


@pytest.mark.parametrize("settings", [{"data": "python:trap:data"}, {"student": "python:trap:network"}])
def test_a_run_folder_from_elsewhere_runs_nothing_unless_it_is_trusted(settings, trap):
    with pytest.raises(SettingsError, match="names code"):
        Engine.resume(folder({"data": "digits@train=32@test=16", **settings}))
    assert not trap.exists()
    Engine.resume("run", trust=True).fit()
    assert trap.exists()
    trap.unlink()
    with pytest.raises(SettingsError, match="names code"):
        evaluate_folder("run")
    assert not trap.exists()
    assert evaluate_folder("run", trust=True)["top1"] >= 0


def test_a_comparison_from_elsewhere_runs_nothing_either(trap):
    settings = Settings.checked({"student": "timm:test_resnet", "teacher": "resnet14", "data": "digits@train=32@test=16"})
    note = {"lanes": [vars(LaneSpec("mine", ["./trap.py"]))], "trials": 1, "settings": settings.model_dump(exclude_none=True)}
    Path("compared").mkdir()
    write_json(Path("compared") / "comparison.json", note)
    with pytest.raises(SettingsError, match=r"names code that would be run here: method './trap.py'"):
        Comparison.resume("compared")
    assert not trap.exists()


def test_other_data_for_measuring_is_the_callers_own_word(trap):
    Engine.resume(folder({"data": "digits@train=32@test=16"})).fit()
    assert evaluate_folder("run", data="python:trap:data")["top1"] >= 0
