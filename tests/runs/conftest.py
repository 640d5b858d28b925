"""What tests of several files in this room share."""

import pytest

from kdengine.training.teacher import FrozenTeacher


@pytest.fixture
def forwards(monkeypatch):
    """Counts how often teachers run in training."""
    count, whole = [], FrozenTeacher._forward

    def forward(self, *arguments, **named):
        count.append(1)
        return whole(self, *arguments, **named)

    monkeypatch.setattr(FrozenTeacher, "_forward", forward)

    def since():
        found = len(count)
        count.clear()
        return found

    return since
