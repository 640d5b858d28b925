from typing import Literal

import pytest
from pydantic import Field

from kdengine.config.settings import Names, Settings, Strict
from kdengine.config.validation import shown
from kdengine.errors import SettingsError


class Kinds(Strict):
    """One option of every kind."""

    number: float = Field(1.0, gt=0)
    count: int = 1
    length: int | float = 1
    switch: bool = True
    text: str = ""
    several: tuple[float, ...] = ()
    names: Names = ()
    table: dict[str, int] = Field(default_factory=dict)
    choice: Literal["kl", "ce"] = "kl"
    other: float | None = None


def faults_of(model=Kinds, **values):
    with pytest.raises(SettingsError) as caught:
        model.checked(values)
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("number", "far", "number = 'far': it must be a number."),
        ("number", 0, "number = 0: it must be greater than 0."),
        ("number", float("nan"), "number = nan: it must be a finite number."),
        ("number", [1], "number = [1]: it must be a number."),
        ("count", 0.5, "count = 0.5: it must be a whole number."),
        ("count", "x", "count = 'x': it must be a whole number."),
        ("count", "9" * 5000, "it must be a whole number of fewer digits."),
        ("length", "x", "length = 'x': it must be a number."),
        ("switch", "perhaps", "switch = 'perhaps': it must be true or false."),
        ("switch", 5, "switch = 5: it must be true or false."),
        ("text", 5, "text = 5: it must be text."),
        ("several", 5, "several = 5: it must be a list."),
        ("several", [1, "x"], "several.1 = 'x': it must be a number."),
        ("names", ",", "names = '': it must have at least 1 character."),
        ("table", 5, "table = 5: it must be a table of NAME = VALUE."),
        ("table", {"a": "x"}, "table.a = 'x': it must be a whole number."),
        ("choice", "mse", "choice = 'mse': it must be 'kl' or 'ce'."),
        ("other", "x", "other = 'x': it must be a number."),
    ],
    ids=lambda part: str(part)[:20],
)
def test_a_fault_is_told_by_name_and_value_and_what_is_allowed(name, value, said):
    (fault,) = faults_of(**{name: value})
    assert fault.endswith(said)


def test_a_setting_at_the_wrong_place_is_answered_with_the_right_one():
    assert faults_of(Settings, student="a", lr=0.1) == ["There is no option 'lr'. Did you mean 'train.lr'?"]


def test_the_options_of_a_method_at_the_wrong_place_are_sent_to_the_right_one():
    (fault,) = faults_of(Settings, student="a", fitnet={"kernel": 3})
    assert fault == "There is no option 'fitnet'. The options of a method belong in [options.fitnet]."


def test_a_table_where_a_value_belongs_and_a_value_where_a_table_belongs_are_told():
    faults = faults_of(Settings, student={"name": "a"}, train=5, options={"st": 5})
    assert faults == [
        "student = {'name': 'a'}: it must be text.",
        "train = 5: it must be a table of NAME = VALUE.",
        "options.st = 5: it must be a table of NAME = VALUE.",
    ]


@pytest.mark.parametrize("value", ["x" * 10_000, 10**5000, [[[[[[1]]]]]], list(range(10_000)), {"a" * 9999: 1}], ids="abcde")
def test_a_value_of_any_size_is_shown_in_a_line(value):
    assert 0 < len(shown(value)) < 200


def test_a_value_of_any_depth_is_shown_in_a_line():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    assert shown(deep) == "[[[[...]]]]"
