import logging

import pytest
from PIL import Image

from kdengine import DataError
from kdengine.data.load import load_data


def refusal(text):
    with pytest.raises(DataError) as caught:
        load_data(text)
    return str(caught.value)


@pytest.fixture
def table(tmp_path):
    """Writes a table beside ``pictures/0.png`` to ``9.png``, of which the red tells the number."""
    (tmp_path / "pictures").mkdir()
    for number in range(10):
        Image.new("RGB", (8, 6), (number, 0, 0)).save(tmp_path / "pictures" / f"{number}.png")

    def write(text, name="list.csv", encoding="utf-8"):
        (tmp_path / name).write_text(text, encoding)
        return tmp_path / name

    return write


def rows(labels, header="file,label", extra=""):
    return "\n".join([header, *(f"pictures/{number}.png,{label}{extra}" for number, label in enumerate(labels))]) + "\n"


def reds(split):
    return split.images[:, 0, 0, 0].tolist()


def test_files_and_labels_make_data_and_a_share_of_each_class_is_held_out(table):
    file = table(rows(["bee", "ant"] * 5), encoding="utf-8-sig")  # as spreadsheets write it
    data = load_data(f"csv:{file}@split=0.2")
    assert (data.task, data.classes, data.input_size) == ("classification", ("ant", "bee"), (3, 6, 8))
    assert (data.train.labels.bincount().tolist(), data.test.labels.tolist()) == (
        [4, 4],
        [0, 1] if data.test.labels[0] == 0 else [1, 0],
    )
    assert sorted(reds(data.train) + reds(data.test)) == list(range(10))
    assert [(red % 2 == 0) for red in reds(data.train)] == [label == 1 for label in data.train.labels.tolist()]


def test_numbers_are_classes_in_their_order(table):
    assert load_data(f"csv:{table(rows([10, 9] * 5))}@split=0.2").classes == ("9", "10")


@pytest.mark.parametrize("separator", ["|", ";", " | "])
def test_several_labels_make_multi_label_data(separator, table):
    listed = rows(["cat", f"dog{separator}cat"] * 5, extra=",train", header="file,label,split")
    data = load_data(f"csv:{table(listed + 'pictures/9.png,ant,test')}")
    assert (data.task, data.classes) == ("multilabel", ("ant", "cat", "dog"))
    assert data.train.labels[:2].tolist() == [[0, 1, 0], [0, 1, 1]]
    assert data.test.labels.tolist() == [[1, 0, 0]]


def test_a_column_called_labels_is_multi_label_and_may_be_empty(table):
    data = load_data(f"csv:{table(rows(['a', ''] * 5, header='file,labels'))}@split=0.2")
    assert (data.task, data.train.labels.sum().item() + data.test.labels.sum().item()) == ("multilabel", 5)


def test_columns_can_be_chosen(table):
    file = table(rows(["a", "b"] * 5, header="image,kind,place", extra=",x"))
    data = load_data(f"csv:{file}@file=image@label=kind@split=0.2@size=4")
    assert (data.classes, data.input_size) == (("a", "b"), (3, 4, 4))
    assert load_data(f"csv:{file}@file=image@labels=place@split=0.2").task == "multilabel"
    assert refusal(f"csv:{file}@file=imag@split=0.2").startswith(f"'{file}' has no column 'imag'. Choose one")
    assert refusal(f"csv:{file}@file=image").endswith("Choose one with @label=COLUMN. It has image, kind, place.")


def test_a_column_tells_the_parts(table):
    parts = ["train"] * 6 + ["val"] * 2 + ["test"] * 2
    file = table("file,label,split\n" + "".join(f"pictures/{n}.png,{n % 2},{part}\n" for n, part in enumerate(parts)))
    data = load_data(f"csv:{file}")
    assert [reds(split) for split in (data.train, data.validation, data.test)] == [[0, 1, 2, 3, 4, 5], [6, 7], [8, 9]]
    assert "has test images already, in 'test'. Leave @split out" in refusal(f"csv:{file}@split=0.2")
    assert refusal(f"csv:{table(rows('ab' * 5))}").endswith("list.csv@split=0.2")
    only = table("file,label,split\npictures/1.png,a,test\n")
    assert "has no images to train on. Write 'train' into the column 'split'" in refusal(f"csv:{only}")


def test_faulty_rows_are_named_several_at_once(table):
    text = "file,label,split\npictures/0.png,a,train\nno.png,a,train\n,a,train\npictures/1.png,,train\n"
    text += "pictures/2.png,b,later\npictures/3.png\n"
    assert refusal(f"csv:{table(text)}").endswith(
        "list.csv' cannot be used: line 3 names 'no.png', which does not exist, line 4 names no file, line 5 has no label, "
        "line 6 is for 'later', not for train, val or test, line 7 has no label. Correct the table."
    )
    many = table("file,label\n" + "no.png,a\n" * 9)
    assert "9 rows of" in refusal(f"csv:{many}")
    assert "line 6 names 'no.png', which does not exist and 4 more. Correct" in refusal(f"csv:{many}")


def test_files_that_cannot_be_read_can_be_left_out(table, caplog):
    file = table(rows(["a", "b"] * 5) + "gone.png,a\n")
    with caplog.at_level(logging.WARNING):
        data = load_data(f"csv:{file}@split=0.2@skip_bad=true")
    assert len(data.train) + len(data.test) == 10
    assert "Left out 1 of 11 images" in caplog.text


def test_a_table_that_is_missing_or_empty_is_refused(table, tmp_path):
    assert refusal(f"csv:{tmp_path}/none.csv") == f"There is no file '{tmp_path}/none.csv'."
    assert "has no column 'file'" in refusal(f"csv:{table('')}")
    assert "lists no images" in refusal(f"csv:{table('file,label')}")


def test_tables_as_some_spreadsheets_write_them_are_told_how_to_be_saved(table):
    latin = table(rows(["Äpfel", "Birnen"] * 5), encoding="latin-1")
    assert "is not in UTF-8 (invalid continuation byte). Save it as CSV in UTF-8." in refusal(f"csv:{latin}@split=0.2")
    semicolons = table(rows(["ant", "bee"] * 5).replace(",", ";"))
    said = refusal(f"csv:{semicolons}@split=0.2")
    assert "has no column 'file'. Separate columns by commas, not by ';'. It has file;label." in said
    assert "1 row of" in refusal(f"csv:{table(rows(['ant', 'bee', '']))}@split=0.2")
