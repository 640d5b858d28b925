import pytest

from kdengine import StorageError
from kdengine.storage.reading import read_json, read_rows
from kdengine.storage.runfolder import RunFolder

DAMAGED = {"cut": '{"a": 1', "empty": "", "a list": "[1]", "bytes": b"\xff\xfe", "deep": "[" * 100_000}


@pytest.mark.parametrize("text", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_told_by_its_name(text, tmp_path):
    file = tmp_path / "result.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(StorageError, match=r"result.json' is damaged: .+restore the file"):
        read_json(file)


def test_a_missing_file_is_told_and_a_missing_file_of_rows_has_none(tmp_path):
    with pytest.raises(StorageError, match="No such file"):
        read_json(tmp_path / "nowhere.json")
    assert read_rows(tmp_path / "nowhere.jsonl") == []


def test_rows_are_read_line_by_line_and_a_damaged_one_is_told(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"a": 1}\n\n{"a": 2}\n')
    assert read_rows(file) == [{"a": 1}, {"a": 2}]
    file.write_text('{"a": 1}\n{"a": ')
    with pytest.raises(StorageError, match=r"metrics.jsonl' is damaged"):
        read_rows(file)


@pytest.mark.parametrize("name", ["manifest.json", "metrics.jsonl", "result.json"])
def test_a_run_folder_with_a_damaged_file_says_which(name, run_folder, kdengine_report, capsys):
    folder = run_folder("run")
    (folder / name).write_text("{")
    assert kdengine_report(folder) == 2
    said = capsys.readouterr().err
    assert name in said
    assert "Traceback" not in said
    assert RunFolder(folder).settings().student == "resnet8"


@pytest.fixture
def kdengine_report():
    from kdengine.cli.main import main

    return lambda folder: main(["report", str(folder)])
