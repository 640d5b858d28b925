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
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, settings

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"  # read when the packages are imported
# the same examples on every machine, and none kept; the slow first example of a test is an import, and no fault
for profile, examples in (("quick", 25), ("thorough", 300)):
    settings.register_profile(
        profile,
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )
settings.load_profile(os.environ.get("KDENGINE_TEST_PROFILE", "quick"))

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
def pull() -> Callable[[int], object]:
    """Makes an observer that ends a run after so many steps, by an error."""
    from kdengine import hookimpl

    class Pull:
        def __init__(self, after: int) -> None:
            self.after = after

        @hookimpl(trylast=True)
        def kdengine_after_step(self) -> None:
            self.after -= 1
            if self.after == 0:
                raise RuntimeError("pulled the plug")

    return Pull


@pytest.fixture(scope="session")
def interrupt() -> Callable[[int], object]:
    """Makes an observer that interrupts training after so many rows, as Ctrl-C does."""
    from kdengine import hookimpl

    class Interrupt:
        def __init__(self, after: int) -> None:
            self.after = after

        @hookimpl(trylast=True)
        def kdengine_after_epoch(self) -> None:
            self.after -= 1
            if self.after == 0:
                raise KeyboardInterrupt

    return Interrupt


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


class Said(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON object on standard output."""
        return json.loads(self.out)


@pytest.fixture(scope="session")
def said() -> type[Said]:
    """The class, for other ways to run a command."""
    return Said


@pytest.fixture
def kdengine(capfd) -> Callable[..., Said]:
    """Runs ``kdengine ARGUMENTS`` in this process."""
    from kdengine.cli.main import main

    def run(*arguments: object) -> Said:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        return Said(code, *capfd.readouterr())

    return run


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
    """Writes the folder of a run by hand, with a score for each epoch that is measured."""
    from kdengine.config.settings import Settings
    from kdengine.storage.chance import Chance
    from kdengine.storage.runfolder import RunFolder
    from kdengine.storage.scores import CLASSIFICATION, Scoring

    machine = {"device_name": "a machine", "device": "cpu", "threads": 2, "precision": "fp32"}

    def others(scoring: Scoring, score: float) -> dict[str, float]:
        return {measure.name: score + 20 for measure in scoring.measures[1:] if measure.name != "loss"}

    def rows(method: str, scores: Sequence[float], hint: int, scoring: Scoring, loss: float, seconds: float) -> Iterator[dict]:
        name = scoring.headline.name
        for epoch in range(1, hint + len(scores) + 1):
            row = {"lane": method, "epoch": epoch, "seconds": seconds, "images_per_second": 9.0, "lr": 0.1}
            if epoch <= hint:
                yield {**row, "phase": "hint", "phase_epoch": epoch, "loss": 0.5, "terms": {f"{method}.hint": 0.5 / epoch}}
                continue
            score, terms = scores[epoch - hint - 1], {"task": loss / epoch}
            terms |= {} if method == "plain" else {f"{method}.term": 2.0 / epoch}
            measured = {f"train_{name}": score + 5, f"test_{name}": score, "test_loss": 1.0}
            measured |= {f"test_{other}": value for other, value in others(scoring, score).items()}
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
        scores: Sequence[float] = (30.0, 50.0),
        method: str = "st",
        hint: int = 0,
        finished: bool = True,
        failed: str | None = None,
        fingerprint: str = "f",
        data: str = "digits",
        task: Scoring | None = None,
        loss: float = 4.0,
        seconds: float = 2.0,
        chance: Chance | None = None,
        warnings: Sequence[str] = (),
        **settings: object,
    ) -> Path:
        folder, plain, scoring = RunFolder(tmp_path / name), method == "plain", task or CLASSIFICATION
        headline, named = scoring.headline, {} if task is None else {"task": task.to_dict()}
        guessed = {} if chance is None else {"chance": chance.to_dict()}
        doubts = {"warnings": list(warnings)} if warnings else {}
        known = {"name": data, "fingerprint": fingerprint, "train_images": 1438, "test_images": 359, "num_classes": 10}
        given = {"student": "resnet8", "data": data, "methods": [] if plain else [method]}
        given |= {} if plain else {"teacher": "resnet32"}
        folder.begin(Settings.checked({**given, **settings}), {**machine, "data": known, **named, **guessed})
        measured = list(rows(method, scores, hint, scoring, loss, seconds))
        folder.write_text("metrics.jsonl", "".join(json.dumps(row) + "\n" for row in measured))
        if failed is not None:
            folder.write_json("failed.json", {"error": failed, "epoch": len(measured) + 1})
        elif finished:
            best = max(scores) if headline.higher_is_better else min(scores)
            numbers = {headline.name: scores[-1], f"best_{headline.name}": best, "epochs": len(measured)}
            numbers |= others(scoring, scores[-1])
            teacher = {"name": "resnet32", headline.name: 70.0, f"best_{headline.name}": 71.0, "parameters": 472756}
            teacher |= others(scoring, 70.0)
            sizes = {"parameters": 78042, "training_parameters": 78142, "seconds": 12.6}
            student = {"name": settings.get("student", "resnet8"), **numbers, **sizes}
            result = {"method": method, "methods": given["methods"], "teacher": None if plain else teacher, "student": student}
            folder.write_json("result.json", {**result, "data": known, **named, **doubts})
        folder.free()
        return folder.path

    return make
