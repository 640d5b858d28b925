from pathlib import Path

from kdengine.cache import cache_folder


def test_the_cache_lies_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("KDENGINE_CACHE", str(tmp_path))
    assert cache_folder("teachers", "a") == tmp_path / "teachers" / "a"
    assert not (tmp_path / "teachers").exists()


def test_the_cache_lies_in_the_users_cache_folder_otherwise(monkeypatch, tmp_path):
    monkeypatch.delenv("KDENGINE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder("data") == tmp_path / "kdengine" / "data"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder("data") == Path.home() / ".cache" / "kdengine" / "data"


def test_the_tests_use_a_cache_of_their_own():
    assert Path.home() not in cache_folder().parents
