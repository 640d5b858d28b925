"""The contract, over every method and composition of every installed plugin."""

import pytest

from kdengine import Registry
from kdengine.testing import DistillerContract

pytestmark = pytest.mark.sample(4)
"""``make test`` tries each check on the same four methods; ``make test-all`` tries all of them."""

OPTIONS = {"phi-s": {"batches": 1}}
"""It looks at some batches first, and its first steps cost nothing."""

for name in Registry().all_methods():
    title = "Test" + "".join(part.capitalize() for part in name.split("-"))
    globals()[title] = type(title, (DistillerContract,), {"method": name, "options": OPTIONS.get(name, {})})
