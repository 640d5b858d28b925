import sys

import torch

from kdengine.storage.manifest import circumstances, differences_that_round


def test_it_says_when_where_and_with_what():
    found = circumstances()
    assert found["argv"] == sys.argv
    assert found["versions"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert found["started"].endswith("+00:00")


def test_what_changes_the_order_of_sums_is_told_and_nothing_else():
    before = {"threads": 2, "device_name": "a", "started": "yesterday", "versions": {"torch": "2.8", "timm": "1.0"}}
    now = {"threads": 1, "device_name": "a", "started": "today", "versions": {"torch": "2.9", "timm": "1.0"}}
    assert differences_that_round(before, now) == ["threads: 2, now 1", "torch: 2.8, now 2.9"]
    assert differences_that_round({}, now) == [], "what is not known is no difference"
