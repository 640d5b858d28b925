"""The contract, over every method and composition of every installed plugin."""

import pytest

from kdengine import Registry
from kdengine.testing import DistillerContract

pytestmark = pytest.mark.sample(6)
"""Each check is made of six methods in ``make test``, drawn by the name of the check, and of all of them in ``make test-all``."""

for name in Registry().all_methods():
    title = "Test" + "".join(part.capitalize() for part in name.split("-"))
    globals()[title] = type(title, (DistillerContract,), {"method": name})
