import pytest

from kdengine import errors
from kdengine.errors import KDError, did_you_mean, missing


def test_the_nearest_name_is_offered():
    assert did_you_mean("angel", ["angle", "distance"]) == "Did you mean 'angle'?"


def test_several_near_names_are_offered_nearest_first():
    assert did_you_mean("resnet9", ["resnet8", "resnet98", "vgg"]) == "Did you mean 'resnet98' or 'resnet8'?"


def test_nothing_is_offered_where_no_name_is_near():
    assert did_you_mean("zzz", ["angle", "distance"]) == ""
    assert did_you_mean("zzz", []) == ""


def test_no_more_names_are_offered_than_asked_for():
    assert did_you_mean("resnet9", ["resnet8", "resnet98", "resnet99"], limit=1).count("resnet") == 1


def test_a_missing_file_says_where_a_relative_path_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert missing("file", "a/b.csv") == f"There is no file 'a/b.csv' in the current folder, '{tmp_path}'."
    assert missing("file", "~/b.csv") == "There is no file '~/b.csv'."


@pytest.mark.parametrize("name", [name for name in errors.__all__ if name.endswith("Error")])
def test_every_error_is_one_that_the_command_line_catches(name):
    assert issubclass(getattr(errors, name), KDError)
