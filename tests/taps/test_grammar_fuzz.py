"""Whatever is written for a tap is read, or refused with a reason: never a traceback, never a wait."""

import kdzoo  # noqa: F401  (registers the CIFAR networks with timm)
import pytest
import timm
from hypothesis import given
from hypothesis import strategies as st

from kdengine.errors import TapError
from kdengine.taps import Anatomy, Tap, parse, split_pair
from kdengine.taps.paths import expand

DIGITS = st.sampled_from(["0", "1", "2", "-1", "-2", "9" * 30, "-" + "9" * 5000, "٣", "²", "007"])
WORDS = st.sampled_from(
    ["layer1", "layer2", "layer*", "conv1", "relu()", "stem", "stages", "embedding", "logits", "fc", "pre", "map"]
)
MARKS = st.sampled_from([".", ":", "#", "=", ":in", ":out", "#0", " ", "stage", "*", "?", "[", "]", "!", "[!a]", "[z-a]", "()"])
NEAR_TAPS = st.lists(st.one_of(WORDS, DIGITS, MARKS), max_size=7).map("".join)
PATHS = st.text(st.characters(blacklist_categories=["Z", "C"], blacklist_characters=":#="), min_size=1, max_size=20)
TAPS = st.builds(Tap, PATHS, st.sampled_from([None, "in", "out"]), st.none() | st.integers(0, 10**9 - 1))


@pytest.fixture(scope="module")
def anatomy():
    return Anatomy.of(timm.create_model("resnet8", num_classes=10), (3, 32, 32), "resnet8")


@given(text=st.text() | NEAR_TAPS)
def test_any_text_is_a_tap_that_prints_as_it_is_read_or_is_refused(answered, text):
    tap = answered(parse, text)
    assert isinstance(tap, Tap | TapError)
    if isinstance(tap, Tap):
        assert parse(str(tap)) == tap


@given(TAPS)
def test_every_tap_is_read_as_it_prints(tap):
    assert parse(str(tap)) == tap


@given(student=st.text() | NEAR_TAPS, teacher=st.text() | NEAR_TAPS)
def test_any_pair_is_split_at_its_sign_or_is_refused(answered, student, teacher):
    sides = answered(split_pair, f"{student}={teacher}")
    assert isinstance(sides, TapError) or sides == (student.strip(), teacher.strip())


@given(text=st.text() | NEAR_TAPS)
def test_any_tap_is_found_in_a_network_or_is_refused_with_a_reason(anatomy, answered, text):
    points = answered(anatomy.resolve, text)
    assert isinstance(points, dict | TapError)
    for point in points.values() if isinstance(points, dict) else ():
        assert anatomy.tensor(point).shape[0] == 2


@given(NEAR_TAPS | st.text(), st.lists(st.text("ab12²٣.()[", min_size=1), max_size=8))
def test_a_path_finds_only_what_there_is(path, known):
    assert set(expand(path, known)) <= set(known)


@pytest.mark.parametrize(
    "text", ["stage-" + "9" * 5000, "layer1.-" + "9" * 5000, "relu#" + "9" * 5000], ids=["stage", "child", "call"]
)
def test_a_number_of_more_digits_than_python_reads_is_refused(anatomy, text):
    with pytest.raises(TapError, match=r"resnet8 has no|is not a tap"):
        anatomy.resolve(text)


def test_digits_of_other_scripts_count_no_calls():
    with pytest.raises(TapError, match="is not a tap"):
        parse("relu#٣")


def test_a_child_whose_name_is_a_digit_but_no_number_is_not_counted():
    assert expand("a.-1", ["a", "a.0", "a.²"]) == ["a.0"]


@pytest.mark.parametrize(
    "text", ["a" * 100_000, "*a" * 2000, "." * 100_000, "[" * 100_000, "a:" * 50_000, "layer1." * 10_000], ids="abcdef"
)
def test_a_long_tap_is_refused_without_a_wait(anatomy, text):
    with pytest.raises(TapError):
        anatomy.resolve(text)
