"""What several test files share: a cache of their own, data, processes, and distributions made on the spot."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"  # read when the packages are imported
REPOSITORY = Path(__file__).parents[1]
REAL_DATA = REPOSITORY.parent / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def _caches_of_the_tests(tmp_path_factory) -> Iterator[None]:
    """No test reads or fills the user's caches."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDENGINE_CACHE", str(tmp_path_factory.mktemp("kdengine-cache")))
        patch.setenv("HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("hf-cache")))
        patch.delenv("KDENGINE_LOAD_PLUGINS", raising=False)
        yield


@pytest.fixture(scope="session")
def digits():
    from kdengine.data import load_data

    return load_data("digits")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with CIFAR-10 and CIFAR-100, where there is one."""
    if not (REAL_DATA / "cifar100").is_dir():
        pytest.skip("needs ../shared/data")
    return REAL_DATA


@pytest.fixture
def python() -> Callable[..., str]:
    """Runs code in a process of its own and returns what it printed."""

    def run(code: str, path: Path | None = None, **environment: str) -> str:
        settings = {**os.environ, **environment, **({"PYTHONPATH": str(path)} if path else {})}
        command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)]
        done = subprocess.run(command, capture_output=True, text=True, env=settings, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


@pytest.fixture
def distribution(tmp_path, monkeypatch) -> Iterator[Callable[..., Path]]:
    """Installs a distribution of one module: what pip would leave behind, in a folder that stands on the path."""
    site = tmp_path / "site-packages"
    site.mkdir()
    monkeypatch.syspath_prepend(site)
    before = set(sys.modules)

    def install(name: str, source: str, entry: str = "", module: str = "", version: str = "1.2") -> Path:
        module = module or name.replace("-", "_")
        (site / f"{module}.py").write_text(textwrap.dedent(source), encoding="utf-8")
        info = site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
        (info / "entry_points.txt").write_text(f"[kdengine]\n{entry or name} = {module}\n", encoding="utf-8")
        return site

    yield install
    for imported in set(sys.modules) - before:
        if str(getattr(sys.modules[imported], "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[imported]
