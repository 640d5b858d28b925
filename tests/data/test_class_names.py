from dataclasses import replace

import pytest

from kdengine.data.class_names import check_class_names
from kdengine.data.dataset import blank
from kdengine.errors import DataError


def data(*names):
    return replace(blank((3, 8, 8), len(names)), name="pets", classes=names)


def refusal(stored, *names):
    with pytest.raises(DataError) as caught:
        check_class_names(stored, data(*names), "the student of 'runs/a'")
    return str(caught.value)


def test_the_same_names_in_the_same_order_pass_and_so_does_what_is_not_known():
    check_class_names(["ant", "bee"], data("ant", "bee"), "the student")
    check_class_names(("ant", "bee"), data("ant", "bee"), "the student")
    check_class_names(None, data("ant", "bee"), "the student")
    check_class_names(["ant", "bee"], None, "the student")


def test_another_order_is_refused_with_the_classes_that_differ_and_what_to_do():
    assert refusal(["ant", "bee", "cat"], "bee", "ant", "cat") == (
        "The classes of 'pets' are in another order than those that the student of 'runs/a' was trained for: class 0 is 'bee', "
        "not 'ant'; class 1 is 'ant', not 'bee'. A network knows classes by their numbers, so names and order must be the "
        "same. Rename the classes of the data, such as the folders of an imagefolder, or give the data by a python: factory "
        "that returns a kdengine.Data with these classes, and the labels that go with them."
    )


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("ant", "dog"), "are others than those that the student of 'runs/a' was trained for: class 1 is 'dog', not 'bee'. A"),
        (("ant",), "are others (1 classes, not 2) than those that .* was trained for: class 1 is missing, not 'bee'. A"),
        (("ant", "bee", "cat"), "are others (3 classes, not 2) than those .*: class 2 is 'cat', not missing. A"),
        (("ant", "ant"), "are others than those that .* was trained for: class 1 is 'ant', not 'bee'. A"),
    ],
)
def test_other_classes_are_refused_with_those_that_differ(names, said):
    start, _, end = said.partition(".*")
    answer = refusal(["ant", "bee"], *names)
    assert start in answer
    assert end in answer


def test_of_many_differences_the_first_are_told_and_the_rest_counted():
    names = [f"n{number:04}" for number in range(1000)]
    answer = refusal(names, *reversed(names))
    assert "class 4 is 'n0995', not 'n0004', and 995 more. A network" in answer
    assert len(answer) < 700


def test_data_or_a_network_without_classes_suit_any():
    check_class_names([], data("ant"), "the student")
    check_class_names(["ant"], replace(data("bee"), classes=()), "the student")
