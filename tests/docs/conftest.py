"""What builds the site is no installed package: its folder is put on the path here."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs"))


@pytest.fixture(scope="session")
def root():
    return ROOT


@pytest.fixture(scope="session")
def said():
    """What ``kdengine plugins --json`` says of everything that is installed here."""
    from kdengine_docs.plugins import Installed

    return Installed.read()
