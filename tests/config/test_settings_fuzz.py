"""Whatever is written for a setting becomes a value, or is refused with a reason: never a traceback, never a wait."""

import pytest
import tomli_w
from hypothesis import example, given
from hypothesis import strategies as st

from kdengine import KDError, Registry, SettingsError
from kdengine.cli.options import settings_from
from kdengine.config.settings import InputSettings, Settings, TrainSettings
from kdengine.config.values import parse_assignment, read_toml, split_names

OPTIONS = [
    "weight",
    "taps",
    "preset",
    "alpha",
    "temperature",
    "soft_term",
    "hint_epochs",
    "kernel",
    "mode",
    "angle",
    "task",
    "x",
]
NAMES = st.sampled_from([*Settings.model_fields, *TrainSettings.model_fields, *InputSettings.model_fields, *OPTIONS])
METHODS = st.sampled_from(
    ["st", "rkd", "fitnet", "fitnet-2", "rdk", "kdplugin-at:att", "multi", "tensorboard", "./nowhere.py", "python:json:loads"]
)
KEYS = NAMES | METHODS | st.text(max_size=8)
LITERALS = st.sampled_from(
    [
        *["5", "-1", "0", "1e400", "nan", "-inf", "true", "[1, 2]", "[[1],[2]]", "{a = 1}", "'x'", '"', '"""a', "stage2", "kl"],
        *[
            "0x" + "f" * 5000,
            "9" * 5000,
            "[" * 5000,
            "{a=" * 2000,
            "1\nb = 2",
            "1\n[value]",
            "2020-01-01",
            "07:00:00",
            "",
            " # 1",
        ],
        *["a,b@x=[1,2]", "stage2=stage3", "layer1.0.conv1:in", "\0", "1 # one", "bhheo", "joint", "teacher"],
    ]
)
VALUES = st.recursive(
    st.none().map(lambda _: "") | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates() | LITERALS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)
TABLES = st.dictionaries(KEYS, VALUES, max_size=3)
FILES = st.fixed_dictionaries(
    {},
    optional={
        "student": st.just("resnet8") | VALUES,
        "teacher": st.just("resnet14") | VALUES,
        "methods": st.lists(METHODS, max_size=3) | VALUES,
        "train": st.dictionaries(st.sampled_from(list(TrainSettings.model_fields)), VALUES, max_size=3) | VALUES,
        "teacher_train": TABLES | VALUES,
        "student_input": TABLES | VALUES,
        "options": st.dictionaries(METHODS, TABLES, max_size=3) | VALUES,
        "seed": VALUES,
        "other": VALUES,
    },
)
ASSIGNMENTS = st.builds(
    "{}.{}={}".format, METHODS | NAMES | st.text(max_size=6), KEYS, LITERALS | st.text(max_size=12) | st.just("\udcff")
)


@pytest.fixture(scope="module")
def registry():
    return Registry()


@given(text=st.text() | ASSIGNMENTS)
def test_any_text_is_an_assignment_or_is_refused(answered, text):
    found = answered(parse_assignment, text)
    assert isinstance(found, dict | SettingsError)


@given(st.text(st.characters(blacklist_characters="\\\"'", blacklist_categories=["C"]), max_size=20))
def test_any_text_in_quotes_is_that_text(text):
    assert parse_assignment(f'st.x="{text}"') == {"st": {"x": text}}


@given(texts=st.lists(ASSIGNMENTS | st.text(max_size=8), max_size=3), methods=st.lists(METHODS, max_size=2))
def test_any_options_make_settings_and_methods_or_are_refused(registry, answered, texts, methods):
    given = ["student=resnet8", "teacher=resnet14", f"methods={methods}", *texts]
    found = answered(settings_from, registry, None, None, given, trust=False)
    assert isinstance(found, Settings | KDError)


@given(values=st.dictionaries(st.sampled_from(OPTIONS), VALUES, max_size=4), name=st.sampled_from(["st", "rkd", "fitnet"]))
@example(values={"temperature": 10**5000}, name="st")
@example(values={"hint_epochs": 10**5000}, name="fitnet")
@example(values={"taps": "," * 100_000}, name="rkd")
def test_any_options_make_a_method_or_are_refused(registry, answered, values, name):
    (method,) = registry.methods(name)
    assert isinstance(answered(method, **values), method | SettingsError)


@given(values=FILES, trust=st.booleans())
def test_any_file_of_settings_is_read_or_refused_with_every_fault(registry, answered, tmp_path, values, trust):
    (tmp_path / "run.toml").write_text(tomli_w.dumps(values), encoding="utf-8")
    found = answered(settings_from, registry, str(tmp_path / "run.toml"), None, (), trust=trust)
    assert isinstance(found, Settings | KDError)
    if isinstance(found, Settings):
        kept = tomli_w.dumps(found.model_dump(mode="json", exclude_none=True))
        (tmp_path / "run.toml").write_text(kept, encoding="utf-8")
        again = Settings.checked(read_toml(tmp_path / "run.toml"))
        assert tomli_w.dumps(again.model_dump(mode="json", exclude_none=True)) == kept


@given(values=FILES, trust=st.booleans())
def test_any_file_serves_as_a_recipe_or_is_refused(registry, answered, tmp_path, values, trust):
    (tmp_path / "run.toml").write_text(tomli_w.dumps(values), encoding="utf-8")
    found = answered(settings_from, registry, None, str(tmp_path / "run.toml"), ("student=resnet8",), trust=trust)
    assert isinstance(found, Settings | KDError)


@given(content=st.binary() | st.text().map(str.encode) | LITERALS.map(lambda text: f"x = {text}".encode(errors="replace")))
def test_any_bytes_are_a_file_of_settings_or_are_refused_by_name(registry, answered, tmp_path, content):
    (tmp_path / "run.toml").write_bytes(content)
    found = answered(settings_from, registry, str(tmp_path / "run.toml"), None, (), trust=False)
    assert isinstance(found, KDError)


@given(st.text("ab,[]@=1 ", max_size=30))
def test_names_are_split_at_commas_and_nothing_of_them_is_lost(text):
    parts = split_names(text)
    assert ",".join(parts).replace(" ", "") == text.replace(" ", "")
    assert len(parts) <= text.count(",") + 1
    if "[" not in text:
        assert parts == tuple(part.strip() for part in text.split(","))


@given(st.lists(st.text("ab[]@=1.*", max_size=5).filter(lambda text: "[" not in text), max_size=5))
def test_lists_in_brackets_are_not_split(names):
    assert split_names(f"x@a=[[{','.join(names)}],[1,2]],b")[-1] == "b"
