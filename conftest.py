"""For all tests: one thread, because small tensors gain nothing from more; and which tests ``make test`` leaves out."""

import os
import random

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported, here and in the processes that tests start


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what ``make test`` leaves out: of a wide matrix marked ``sample(count)`` all but a few, drawn by its name."""
    matrices: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.path.stem.endswith("_fuzz"):
            item.add_marker(pytest.mark.fuzz)
        if item.get_closest_marker("sample"):
            matrices.setdefault(f"{item.path}::{getattr(item, 'originalname', item.name)}", []).append(item)
    for name, cells in matrices.items():
        (count,) = cells[0].get_closest_marker("sample").args
        kept = random.Random(name.rpartition("::")[2]).sample(range(len(cells)), min(count, len(cells)))
        for number, cell in enumerate(cells):
            if number not in kept:
                cell.add_marker(pytest.mark.slow)
