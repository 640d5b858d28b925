"""A task that is not classification: its headline has no unit, and its lowest value is the best one."""

import pytest

from kdengine.storage.scores import Measure, Scoring


@pytest.fixture(scope="session")
def depth():
    """What it measures."""
    return Scoring("depth", (Measure("rmse", "RMSE", higher_is_better=False), Measure("within", "within 1.25", "%")))
