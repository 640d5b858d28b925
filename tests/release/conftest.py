"""What numbers and builds the distributions is no installed package: its folder is put on the path, and that of the pages."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / ".ci"), str(ROOT / "docs")]


@pytest.fixture(scope="session")
def root():
    return ROOT


@pytest.fixture(scope="session")
def ours():
    """All packages of the repository."""
    from kdengine_release.packages import packages

    return packages()


@pytest.fixture(scope="session")
def dist(tmp_path_factory, ours):
    """The folder with all distributions: that of ``make wheels`` where KDENGINE_DIST names it, or one built here."""
    pytest.importorskip("hatchling", reason="the extra 'dev' is not installed")
    from kdengine_release.build import build

    if "KDENGINE_DIST" in os.environ:
        return Path(os.environ["KDENGINE_DIST"]).resolve()
    folder = tmp_path_factory.mktemp("dist")
    build(ours, folder)
    return folder


@pytest.fixture
def quiet():
    """Runs a program, which must succeed, and gives what it printed."""

    def run(*command, **options):
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, **options)
        assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    return run
