import pytest

from kdengine import StorageError
from kdengine.storage.confusion import CLASSES, ConfusionMatrix

PETS = ConfusionMatrix(("cat", "dog", "fox"), [[8, 2, 0], [0, 5, 0], [0, 0, 0]])


def test_each_class_has_its_share_and_what_it_is_mostly_taken_for():
    cat, dog, fox = PETS.per_class()
    assert cat == {"class": "cat", "images": 10, "accuracy": 80.0, "confused_with": "dog", "confused": 2}
    assert (dog["accuracy"], dog["confused_with"]) == (100.0, None)
    assert (fox["images"], fox["accuracy"]) == (0, None)
    more = ConfusionMatrix(("a", "b"), [[1, 7], [9, 1]])
    assert more.mistakes(5) == [("b", "a", 9), ("a", "b", 7)]
    assert more.mistakes(1) == [("b", "a", 9)]


def test_a_folder_keeps_one_matrix_for_each_set_of_weights(tmp_path):
    assert ConfusionMatrix.read(tmp_path) is None
    other = ConfusionMatrix(("a", "b"), [[1, 7], [9, 1]])
    other.keep(tmp_path, "best")
    assert ConfusionMatrix.read(tmp_path)[0] == "best"
    PETS.keep(tmp_path, "last")
    assert ConfusionMatrix.read(tmp_path) == ("last", PETS)


@pytest.mark.parametrize("text", ['{"last": {}}', '{"last": {"classes": ["a"], "confusion": [[1, 2]]}}', "[", '{"last": 3}'])
def test_a_damaged_file_is_told(text, tmp_path):
    (tmp_path / CLASSES).write_text(text)
    with pytest.raises(StorageError, match=r"classes\.json' is damaged"):
        ConfusionMatrix.read(tmp_path)
