import pytest

from kdengine.errors import TapError
from kdengine.taps import Tap, parse, split_pair


@pytest.mark.parametrize(
    ("text", "tap"),
    [
        ("layer2.0.conv1", Tap("layer2.0.conv1")),
        ("layer2.0.conv1:in", Tap("layer2.0.conv1", "in")),
        ("layer2.0.conv1:out", Tap("layer2.0.conv1", "out")),
        ("relu#1", Tap("relu", None, 1)),
        ("relu:in#12", Tap("relu", "in", 12)),
        ("layer4.-1", Tap("layer4.-1")),
        ("blocks.*.mlp", Tap("blocks.*.mlp")),
        ("layer[12].0", Tap("layer[12].0")),
        ("layer1.0.relu()", Tap("layer1.0.relu()")),
        ("  stage2.pre ", Tap("stage2.pre")),
    ],
)
def test_a_tap_is_read_as_it_is_written(text, tap):
    assert parse(text) == tap


@pytest.mark.parametrize("text", ["layer1", "layer1:in", "layer1:out", "relu#0", "relu:in#3", "stage-1", "a.b()"])
def test_a_tap_prints_as_it_was_written(text):
    assert str(parse(text)) == text


@pytest.mark.parametrize("text", ["", "layer1:middle", "layer1#one", "layer1#1:in", "layer 1", "a=b", ":in", "#1", "layer1#-1"])
def test_what_is_no_tap_is_refused_with_the_grammar(text):
    with pytest.raises(TapError, match=r"is not a tap\. A tap is written PATH\[:in\|:out\]\[#CALL\]"):
        parse(text)


@pytest.mark.parametrize(
    "text",
    ["stem", "stage1", "stage12", "stage-1", "stages", "stage2.pre", "stage-1.pre", "embedding", "embedding.map", "logits"],
)
def test_canonical_names_are_known(text):
    assert parse(text).canonical is not None


@pytest.mark.parametrize(
    "text", ["stem:out", "stage1:in", "stage2#1", "stage0", "stage", "stages.0", "stage2.0", "logits.x", "Stage1"]
)
def test_a_side_a_call_or_another_spelling_means_the_module(text):
    assert parse(text).canonical is None


def test_a_pair_names_the_student_first():
    assert split_pair("layer2 = blocks.5:in") == ("layer2", "blocks.5:in")


def test_a_single_tap_names_the_same_on_both_sides():
    assert split_pair("stage2") == ("stage2", "stage2")


@pytest.mark.parametrize("text", ["a=b=c", "=b", "a=", "=", "", " = b"])
def test_a_pair_with_an_empty_or_a_third_side_is_refused(text):
    with pytest.raises(TapError, match="STUDENT=TEACHER"):
        split_pair(text)
