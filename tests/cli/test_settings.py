from pathlib import Path

import pytest

from kdengine.cli.options import values_from
from kdengine.config.settings import InputSettings, Settings, StoreSettings, TrainSettings

PAGE = Path(__file__).parents[2] / "docs" / "training.md"
MARK = "<!-- written by: kdengine settings --markdown -->\n\n"


def names(said):
    return [entry["name"] for entry in said.json["settings"]]


def test_the_page_is_what_the_command_prints(kdengine):
    _, mark, tables = PAGE.read_text(encoding="utf-8").partition(MARK)
    assert mark
    assert tables == kdengine("settings", "--markdown").out, (
        "docs/training.md is out of date: replace what follows its mark with the output of 'kdengine settings --markdown'."
    )


def test_the_page_holds_every_option():
    text = PAGE.read_text(encoding="utf-8")
    inputs = [f"{role}_input.{name}" for role in ("teacher", "student") for name in InputSettings.model_fields]
    top = [name for name in Settings.model_fields if name not in ("train", "teacher_input", "student_input", "teacher_store")]
    stores = [f"teacher_store.{name}" for name in StoreSettings.model_fields]
    wanted = [*top, *inputs, *stores, *(f"train.{name}" for name in TrainSettings.model_fields)]
    assert [name for name in wanted if f"\n| `{name}` |" not in text] == []


def test_a_part_of_a_name_a_glob_and_a_word_of_the_description_find_settings(kdengine):
    assert names(kdengine("settings", "BATCH_S", "--json")) == ["train.batch_size"]
    assert names(kdengine("settings", "student_i*", "--json")) == [f"student_input.{part}" for part in ("size", "mean", "std")]
    assert "train.lr" in names(kdengine("settings", "learning rate", "--json"))


def test_a_method_gives_its_options(kdengine):
    out = kdengine("settings", "rkd").out
    assert out.startswith("Options of rkd\n")
    row = next(line for line in out.splitlines() if line.startswith("rkd.angle"))
    assert row.split()[1:6] == ["50.0", "number,", "at", "least", "0"]
    assert names(kdengine("settings", "st.alp", "--json")) == ["st.alpha"]


def test_nothing_found_is_told_with_what_is_near(kdengine):
    said = kdengine("settings", "wieght_decay")
    assert said.code == 2
    assert "no setting or method 'wieght_decay'. Did you mean 'weight_decay'" in said.err


def test_short_flags_are_settings_and_o_wins():
    flags = {"epochs": 3, "lr": 0.5, "batch_size": 7, "device": "cpu", "teacher_epochs": 9, "seed": None}
    values = values_from(None, ["train.lr=0.25", "teacher_train.lr=1"], **flags)
    assert values["train"] == {"epochs": 3, "lr": 0.25, "batch_size": 7, "device": "cpu"}
    assert values["teacher_train"] == {"epochs": 9, "lr": 1}
    assert set(values) == {"train", "teacher_train"}


@pytest.mark.parametrize("command", ["run", "compare", "sweep", "teach", "train"])
def test_every_command_that_trains_takes_them(command, kdengine):
    out = kdengine(command, "--help").out
    for flag in ("--epochs", "--lr", "--batch-size", "--device"):
        assert f" {flag} " in out
    assert ("--teacher-epochs" in out) == (command != "train")
    assert ("--teacher-store" in out) == (command != "train")


def test_a_bad_value_is_told_under_its_name(kdengine):
    said = kdengine("train", "--model", "resnet8", "--lr", "-1", "--batch-size", "0")
    assert said.code == 2
    assert "train.lr = -1.0: it must be greater than 0" in said.err
    assert "train.batch_size = 0" in said.err
