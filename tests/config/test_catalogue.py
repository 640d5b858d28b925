from typing import Literal

import pytest
from pydantic import Field

from kdengine.config.catalogue import OTHER, TRAIN_GROUPS, entries_of, every_setting, to_markdown, values_of
from kdengine.config.settings import Names, Settings, Strict, TrainSettings

TABLES = ("train", "teacher_input", "student_input", "teacher_store")


class Inner(Strict):
    """A table."""

    rate: float | None = Field(None, gt=0, lt=1)
    """A rate."""


class Sample(Strict):
    """Options of every kind."""

    must: str
    """Must be given."""
    names: Names = ("a", "b")
    """Names."""
    way: Literal["up", "down", 3] | None = None
    """Up | down."""
    switch: bool = True
    """On or off."""
    inner: Inner = Inner()
    """A table in a table."""


@pytest.fixture(scope="module")
def sample():
    return {entry.name: entry for entry in entries_of(Sample, "x.")}


@pytest.mark.parametrize(
    ("name", "default", "values"),
    [
        ("x.must", "required", "text"),
        ("x.names", '["a", "b"]', "list of texts"),
        ("x.way", "", "up, down, 3"),
        ("x.switch", "true", "true or false"),
        ("x.inner.rate", "", "number, above 0, below 1"),
    ],
)
def test_a_field_is_described_in_words(sample, name, default, values):
    assert (sample[name].shown_default, values_of(sample[name])) == (default, values)


def test_tables_are_opened_and_not_listed_themselves(sample):
    assert list(sample) == ["x.must", "x.names", "x.way", "x.switch", "x.inner.rate"]


def test_markdown_has_a_row_for_each_and_escapes_bars(sample):
    lines = to_markdown(list(sample.values())).splitlines()
    assert lines[0] == f"## {OTHER}"
    assert "| `x.must` | required | text | Must be given. |" in lines
    assert "Up \\| down." in lines[6]


def test_every_setting_is_listed_once_with_a_help_and_the_groups_name_settings_only():
    names = [entry.name for entry in every_setting()]
    assert len(set(names)) == len(names)
    assert {name for name in Settings.model_fields if name not in TABLES} <= set(names)
    assert {f"train.{name}" for name in TrainSettings.model_fields} <= set(names)
    assert all(entry.help and entry.type for entry in every_setting())
    assert {name for group in TRAIN_GROUPS.values() for name in group} <= set(TrainSettings.model_fields)
