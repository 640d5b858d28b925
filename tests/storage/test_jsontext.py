import json

import pytest

from kdengine.storage.jsontext import json_text


def test_numbers_that_json_has_no_name_for_become_null_at_any_depth():
    text = json_text({"a": float("inf"), "b": [{"c": float("nan")}, (1.5, -2)], "d": None, "e": "NaN", "f": True})
    found = json.loads(text, parse_constant=pytest.fail)
    assert found == {"a": None, "b": [{"c": None}, [1.5, -2]], "d": None, "e": "NaN", "f": True}


def test_what_is_no_plain_data_is_an_error():
    with pytest.raises(TypeError):
        json_text({"a": object()})
