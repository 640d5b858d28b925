"""What several test files share: a cache of their own, data, processes, and distributions made on the spot."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"  # read when the packages are imported
# the same examples on every machine, and none kept; the slow first example of a test is an import, and no fault
settings.register_profile(
    "repeatable",
    max_examples=100,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("repeatable")

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
def answered() -> Callable[..., object]:
    """Calls a function: gives what it returns, or the error of ours by which it refuses, whose message says something."""
    from kdengine import KDError

    def call(function: Callable[..., object], *arguments: object, **named: object) -> object:
        try:
            return function(*arguments, **named)
        except KDError as error:
            refusal = error
        assert str(refusal).strip()
        return refusal

    return call


@pytest.fixture(scope="session")
def digits():
    from kdengine.data.load import load_data

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
    point = tmp_path / "point-packages"
    point.mkdir()
    monkeypatch.syspath_prepend(point)
    before = set(sys.modules)

    def install(name: str, source: str, entry: str = "", module: str = "", version: str = "1.2") -> Path:
        module = module or name.replace("-", "_")
        (point / f"{module}.py").write_text(textwrap.dedent(source), encoding="utf-8")
        info = point / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
        (info / "entry_points.txt").write_text(f"[kdengine]\n{entry or name} = {module}\n", encoding="utf-8")
        return point

    yield install
    for imported in set(sys.modules) - before:
        if str(getattr(sys.modules[imported], "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[imported]


@pytest.fixture
def unheard_signals() -> Iterator[None]:
    """Nobody listens, as in a program of its own; everything is as before afterwards."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def run_folder(tmp_path) -> Callable[..., Path]:
    """Writes the folder of a run by hand, with an accuracy for each epoch that is measured."""
    from kdengine.config.settings import Settings
    from kdengine.storage.runfolder import RunFolder

    teacher = {"name": "resnet32", "top1": 70.0, "best_top1": 71.0, "top5": 90.0, "parameters": 472756}
    machine = {"device_name": "a machine", "device": "cpu", "threads": 2, "precision": "fp32"}

    def rows(method: str, accuracies: Sequence[float], hint: int) -> Iterator[dict]:
        for epoch in range(1, hint + len(accuracies) + 1):
            row = {"lane": method, "epoch": epoch, "seconds": 2.0, "images_per_second": 9.0, "lr": 0.1}
            if epoch <= hint:
                yield {**row, "phase": "hint", "phase_epoch": epoch, "loss": 0.5, "terms": {f"{method}.hint": 0.5 / epoch}}
                continue
            top1, terms = accuracies[epoch - hint - 1], {"task": 4.0 / epoch}
            terms |= {} if method == "plain" else {f"{method}.term": 2.0 / epoch}
            measured = {"train_top1": top1 + 5, "test_top1": top1, "test_top5": top1 + 20, "test_loss": 1.0}
            yield {
                **row,
                "phase": "joint",
                "phase_epoch": epoch - hint,
                "loss": sum(terms.values()),
                "terms": terms,
                **measured,
            }

    def make(
        name: str,
        accuracies: Sequence[float] = (30.0, 50.0),
        method: str = "st",
        hint: int = 0,
        finished: bool = True,
        failed: str | None = None,
        fingerprint: str = "f",
        data: str = "digits",
        **settings: object,
    ) -> Path:
        place, plain = RunFolder(tmp_path / name), method == "plain"
        known = {"name": data, "fingerprint": fingerprint, "train_images": 1438, "test_images": 359, "num_classes": 10}
        said = {"student": "resnet8", "data": data, "methods": [] if plain else [method]}
        said |= {} if plain else {"teacher": "resnet32"}
        place.begin(Settings.checked({**said, **settings}), {**machine, "data": known})
        measured = list(rows(method, accuracies, hint))
        place.write_text("metrics.jsonl", "".join(json.dumps(row) + "\n" for row in measured))
        if failed is not None:
            place.write_json("failed.json", {"error": failed, "epoch": len(measured) + 1})
        elif finished:
            numbers = {
                "top1": accuracies[-1],
                "best_top1": max(accuracies),
                "top5": accuracies[-1] + 20,
                "epochs": len(measured),
            }
            sizes = {"parameters": 78042, "training_parameters": 78142, "seconds": 12.6}
            student = {"name": settings.get("student", "resnet8"), **numbers, **sizes}
            result = {"method": method, "methods": said["methods"], "teacher": None if plain else teacher, "student": student}
            place.write_json("result.json", {**result, "data": known})
        place.free()
        return place.path

    return make
