import pytest

from kdengine.taps.paths import expand, is_pattern

KNOWN = ["stem", "layer1", "layer1.0", "layer1.0.conv", "layer1.0.relu()", "layer1.1", "layer1.1.conv", "layer2"]
KNOWN += ["layer2.0", "layer2.0.conv", "head", "head.pool", "head.fc", "blocks", *(f"blocks.{number}" for number in range(12))]


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("layer1.0.conv", ["layer1.0.conv"]),
        ("layer*", ["layer1", "layer2"]),
        ("layer1.*", ["layer1.0", "layer1.1"]),
        ("layer*.0.conv", ["layer1.0.conv", "layer2.0.conv"]),
        ("layer[2-9].*", ["layer2.0"]),
        ("*.0", ["layer1.0", "layer2.0", "blocks.0"]),
        ("layer1.-1", ["layer1.1"]),
        ("layer1.-2.conv", ["layer1.0.conv"]),
        ("layer1.-3", []),
        ("layer1.-0", []),
        ("layer*.-1", ["layer1.1", "layer2.0"]),
        ("layer1.9", []),
        ("nothing.*", []),
        ("layer1.0.relu()", ["layer1.0.relu()"]),
        ("layer1.0.*", ["layer1.0.conv"]),
        ("layer1.*.relu()", ["layer1.0.relu()"]),
    ],
)
def test_a_path_is_expanded_part_by_part(path, found):
    assert expand(path, KNOWN) == found


def test_a_negative_index_counts_numbers_and_not_their_spelling():
    assert expand("blocks.-1", KNOWN) == ["blocks.11"]


def test_a_negative_index_counts_named_children_where_none_is_numbered():
    assert expand("head.-1", KNOWN) == ["head.fc"]


def test_only_globs_are_patterns():
    assert is_pattern("blocks.*")
    assert is_pattern("layer[12]")
    assert is_pattern("a?")
    assert not is_pattern("layer1.-1")
    assert not is_pattern("layer1.relu()")
