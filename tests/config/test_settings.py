import numpy as np
import pytest
import tomli_w
import torch

from kdengine import Engine
from kdengine.config.settings import Settings, TrainSettings, from_assignments
from kdengine.config.values import merge, parse_assignment, read_toml, split_names
from kdengine.errors import SettingsError
from kdengine.storage.runfolder import RunFolder


def faults_of(**values):
    with pytest.raises(SettingsError) as caught:
        Settings.checked(values)
    return str(caught.value).splitlines()


def test_an_unknown_setting_is_answered_with_the_nearest_one():
    assert faults_of(student="resnet8", methds=["rkd"]) == ["There is no option 'methds'. Did you mean 'methods'?"]


def test_an_unknown_train_setting_is_answered_with_the_nearest_one_of_its_section():
    assert faults_of(student="a", train={"epocs": 3}) == ["There is no option 'train.epocs'. Did you mean 'epochs'?"]


def test_an_unknown_setting_near_nothing_is_answered_with_all_there_are():
    (fault,) = faults_of(student="a", train={"zzzz": 3})
    assert "It has epochs, batch_size," in fault


def test_all_faults_are_said_at_once():
    faults = faults_of(
        techer="x", seed=-1, train={"lr": 0, "epochs": "many", "optimiser": "sgd"}, teacher_train={"eppochs": 1, "lr": -2}
    )
    assert len(faults) == 8
    for said in ("'student' is missing", "'techer'", "seed = -1", "train.lr = 0", "train.epochs = 'many'"):
        assert any(said in fault for fault in faults), said
    for said in ("Did you mean 'optimizer'", "There is no option 'teacher_train.eppochs'", "teacher_train.lr = -2"):
        assert any(said in fault for fault in faults), said


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("epochs", 10**30),
        ("batch_size", 10**30),
        ("workers", 10**6),
        ("batch_size", 0),
        ("lr", 0.0),
        ("lr", -0.1),
        ("lr", float("inf")),
        ("lr", float("nan")),
        ("momentum", 1.0),
        ("weight_decay", -1e-4),
        ("schedule", "linear"),
        ("milestones", [150, 180]),
        ("milestones", [0.5, 1.0]),
        ("decay", 1.0),
        ("warmup_epochs", -1),
        ("clip_grad", -1.0),
        ("label_smoothing", 1.0),
        ("augment", "cutmix"),
        ("precision", "fp8"),
        ("workers", -1),
    ],
)
def test_a_train_setting_out_of_range_is_refused_by_name_and_value(name, value):
    with pytest.raises(SettingsError, match=rf"train\.{name}"):
        TrainSettings.checked({name: value}, owner="train")


def test_an_allowed_choice_is_listed_with_the_refusal():
    (fault,) = faults_of(student="a", train={"precision": "fp8"})
    assert fault == "train.precision = 'fp8': it must be 'auto', 'fp32', 'bf16' or 'fp16'."


def test_settings_cannot_be_changed_after_they_were_checked():
    with pytest.raises(ValueError, match="frozen"):
        Settings(student="a").seed = 1


def test_the_teacher_trains_like_the_student_but_for_its_own_settings():
    settings = Settings.checked({"student": "a", "train": {"lr": 0.3, "epochs": 7}, "teacher_train": {"epochs": 9}})
    assert (settings.teacher_training.lr, settings.teacher_training.epochs) == (0.3, 9)
    assert settings.train.epochs == 7


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("rkd.angle=50", 50),
        ("rkd.angle=5e-4", 5e-4),
        ("rkd.angle=true", True),
        ("rkd.angle=[1, 2]", [1, 2]),
        ('rkd.angle=["a", "b=c"]', ["a", "b=c"]),
        ("rkd.angle='50'", "50"),
        ("rkd.angle=cosine", "cosine"),
        ("rkd.angle=layer2=blocks.5", "layer2=blocks.5"),
        ("rkd.angle=relu#1", "relu#1"),
        ("rkd.angle= stage2 ", "stage2"),
        ("rkd.angle=", ""),
    ],
)
def test_an_assigned_value_is_a_toml_literal_or_else_a_string(text, value):
    parsed = parse_assignment(text)["rkd"]["angle"]
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize("text", ["rkd.angle", "=3", ".angle=3", "rkd.=3", ""])
def test_what_is_no_assignment_is_refused_with_the_form_to_write(text):
    with pytest.raises(SettingsError, match=r"Write METHOD\.OPTION=VALUE"):
        parse_assignment(text)


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 5000, "1\nother = 2", "1\n[table]", '"'], ids="abcde")
def test_what_toml_cannot_read_is_a_string(value):
    assert parse_assignment(f"rkd.angle={value}") == {"rkd": {"angle": value.strip()}}


def test_a_name_of_more_parts_than_any_option_has_is_refused():
    with pytest.raises(SettingsError, match="is not an option"):
        parse_assignment("a." * 5000 + "a=1")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a, b", ("a", "b")),
        ("a,b@x=[1,2],c", ("a", "b@x=[1,2]", "c")),
        ("a@x=[[1,2],[3,4]],b", ("a@x=[[1,2],[3,4]]", "b")),
        ("layer[12].0,stem", ("layer[12].0", "stem")),
        ("a],b", ("a]", "b")),
    ],
)
def test_names_stand_between_commas_but_for_those_in_brackets(text, names):
    assert split_names(text) == names


def test_a_long_list_of_names_is_split_without_a_wait():
    assert len(split_names("a," * 100_000)) == 100_001


def test_assignments_to_settings_and_to_methods_are_told_apart():
    values = from_assignments(["train.lr=0.5", "seed=3", "rkd.angle=1", "rkd.distance=2", "fitnet-2.taps=stage2"])
    assert values == {
        "train": {"lr": 0.5},
        "seed": 3,
        "options": {"rkd": {"angle": 1, "distance": 2}, "fitnet-2": {"taps": "stage2"}},
    }


def test_the_last_of_two_assignments_to_one_name_wins():
    assert from_assignments(["train.lr=0.5", "train.lr=0.1"]) == {"train": {"lr": 0.1}}


def test_all_assignments_that_cannot_be_read_are_named_at_once():
    with pytest.raises(SettingsError) as caught:
        from_assignments(["nonsense", "seeed=3", "train.lr=0.1", "rkd=5"])
    said = str(caught.value).splitlines()
    assert len(said) == 3
    assert "Did you mean 'seed'?" in said[1]
    assert "There is no setting 'rkd'" in said[2]


def test_merging_is_nested_and_leaves_both_sides_as_they_were():
    base, over = {"train": {"lr": 1, "epochs": 2}, "data": "digits"}, {"train": {"lr": 3}, "data": {"a": 1}}
    assert merge(base, over) == {"train": {"lr": 3, "epochs": 2}, "data": {"a": 1}}
    assert base == {"train": {"lr": 1, "epochs": 2}, "data": "digits"}
    assert over == {"train": {"lr": 3}, "data": {"a": 1}}


def test_a_missing_toml_file_is_named(tmp_path):
    (tmp_path / "run.toml").touch()
    with pytest.raises(SettingsError, match=r"Cannot read '.*': Is a directory\. Name the file of settings in it: .*run\.toml"):
        read_toml(tmp_path)
    with pytest.raises(SettingsError, match=r"Cannot read '.*none\.toml': No such file"):
        read_toml(tmp_path / "none.toml")


def test_what_is_no_toml_is_refused_with_its_place(tmp_path):
    (tmp_path / "bad.toml").write_text("student = \n")
    with pytest.raises(SettingsError, match=r"bad\.toml' is not valid TOML: .*line 1"):
        read_toml(tmp_path / "bad.toml")
    (tmp_path / "bad.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="is not valid TOML"):
        read_toml(tmp_path / "bad.toml")


@pytest.mark.parametrize(
    "text",
    ["x = " + "[" * 5000, "x = " + "9" * 5000, "x = " + "{a=" * 5000, "a." * 5000 + "a = 1"],
    ids=["brackets", "digits", "braces", "dots"],
)
def test_toml_of_more_brackets_or_digits_than_python_reads_is_refused(tmp_path, text):
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(SettingsError, match=r"bad\.toml' is not valid TOML: .*thousands of digits, or .* too deeply"):
        read_toml(tmp_path / "bad.toml")


def test_a_path_that_cannot_be_one_is_refused():
    with pytest.raises(SettingsError, match=r"run\.toml"):
        read_toml("\0run.toml")


def test_settings_survive_the_way_through_a_file(tmp_path):
    settings = Settings.checked(
        {
            "student": "resnet8@drop_rate=0.1",
            "teacher": "timm:resnet32",
            "methods": ["fitnet", "./my kd.py", "fitnet"],
            "data": 'hf:a "quoted" folder',
            "seed": 3,
            "train": {"lr": 0.05, "clip_grad": 5, "milestones": [0.25, 0.5]},
            "teacher_train": {"epochs": 2},
            "options": {"fitnet": {"taps": ["layer2=blocks.5"], "weight": 0.5}, "fitnet-2": {"beta": 1e-3}},
        }
    )
    folder = RunFolder(tmp_path / "run")
    folder.begin(settings, {})
    assert folder.settings() == settings
    assert Settings.checked(read_toml(tmp_path / "run" / "run.toml")) == settings


def test_default_settings_survive_the_way_through_a_file(tmp_path):
    settings = Settings(student="resnet8")
    (tmp_path / "run.toml").write_text(tomli_w.dumps(settings.model_dump(mode="json", exclude_none=True)))
    assert Settings.checked(read_toml(tmp_path / "run.toml")) == settings


@pytest.mark.parametrize("model", [Settings, TrainSettings])
def test_every_setting_has_a_help_text(model):
    assert [name for name, field in model.model_fields.items() if not field.description] == []


def test_numbers_of_numpy_and_torch_are_numbers():
    settings = Settings.checked(
        {"student": "resnet8", "seed": np.arange(4)[3], "train": {"lr": np.float32(0.5), "epochs": torch.tensor(2)}}
    )
    assert (settings.seed, settings.train.lr, settings.train.epochs) == (3, 0.5, 2)
    assert Engine(None, "resnet8", seed=np.int64(2), lr=np.logspace(-1, 0, 2)[0]).settings.seed == 2
