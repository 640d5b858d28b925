"""For all tests: one thread, because small tensors gain nothing from more; and which tests ``make test`` leaves out."""

import os
import random
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported, here and in the processes that tests start


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what ``make test`` leaves out: of a wide matrix marked ``sample(count)`` all but a few, drawn by its file."""
    matrices: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.path.stem.endswith("_fuzz"):
            item.add_marker(pytest.mark.fuzz)
        if item.get_closest_marker("sample"):
            matrices.setdefault(f"{item.path}::{getattr(item, 'originalname', item.name)}", []).append(item)
    for name, cells in matrices.items():
        (count,) = cells[0].get_closest_marker("sample").args
        # drawn by the file, so that matrices over the same things keep the same ones, which the tests can share
        order = random.Random(Path(name.partition("::")[0]).name).sample(range(len(cells)), len(cells))
        for number in order[count:]:
            cells[number].add_marker(pytest.mark.slow)
