import pytest

from kdengine import SettingsError
from kdengine.config.settings import NEUTRAL, Settings
from kdengine.config.store_settings import StoreSettings, kept_of


def store(value):
    return Settings.checked({"student": "a", "teacher": "b", "teacher_store": value}).teacher_store


def test_a_path_stands_for_the_folder():
    assert store("here") == store({"folder": "here"}) == StoreSettings(folder="here")


def test_a_budget_is_written_as_people_write_sizes():
    assert store({"folder": "f", "budget": "20GB"}).budget == 20 * 10**9
    assert store({"folder": "f", "budget": "1.5 MiB"}).budget == 1.5 * 2**20


@pytest.mark.parametrize(("lossy", "kept"), [("half", None), ("top-16", 16), ("none", None), (None, None)])
def test_lossy_has_names(lossy, kept):
    found = store({"folder": "f", "lossy": lossy}).lossy
    assert found == (None if lossy == "none" else lossy)
    assert kept_of(found) == kept


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"folder": "f", "lossy": "top-0"}, "must be none, half, or top-K"),
        ({"folder": "f", "lossy": "quarter"}, "must be none, half, or top-K"),
        ({"folder": "f", "budget": "much"}, "teacher_store.budget"),
        ({"folder": ""}, "teacher_store.folder"),
        ({"folder": "f", "tabs": "stage1"}, "Did you mean 'taps'"),
        ({"budget": "1GB"}, r"teacher_store\.budget is set, but there is no teacher store.*--teacher-store"),
        ({"taps": "stage1"}, r"teacher_store\.taps is set"),
        ({"lossy": "half"}, r"teacher_store\.lossy is set"),
        ({"folder": "f", "lossy": "top-4", "taps": "stage1"}, "keeps nothing but logits"),
    ],
)
def test_what_makes_no_sense_is_refused(value, message):
    with pytest.raises(SettingsError, match=message):
        store(value)


def test_a_run_without_a_teacher_has_no_store():
    settings = Settings.checked({"student": "a", "teacher": "b", "teacher_store": "here"})
    assert settings.without_teacher().teacher_store == StoreSettings()


def test_only_what_changes_numbers_is_fixed_on_resume():
    assert {name for name in NEUTRAL if name.startswith("teacher_store")} == {
        "teacher_store.folder",
        "teacher_store.taps",
        "teacher_store.budget",
    }
