"""Running the command line: as a function where that is enough, as a process where a process is the point."""

import os
import signal
import subprocess
import sys
import time

import pytest

FAST = ["-o", "train.precision=fp32", "-o", "train.device=cpu", "-o", "train.batch_size=64", "-o", "train.lr=0.02"]
SMALL = ["--data", "digits@train=128@test=64", "--epochs", "2", *FAST]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty working folder; the cache of teachers is that of all tests."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """A cache of teachers for this test alone; not made yet."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("KDENGINE_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def small():
    """The flags of a run that takes a second."""
    return SMALL


@pytest.fixture(scope="session")
def process(said):
    """Runs ``python -m kdengine ARGUMENTS`` as a process; with ``interrupt_at``, a signal when standard error says that."""

    def run(*arguments, interrupt_at=None, signal_to_send=signal.SIGINT, **options):
        command = [sys.executable, "-m", "kdengine", *map(str, arguments)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **options.pop("env", {})}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, env=environment, preexec_fn=_interruptible, **pipes, **options) as running:
            err = ""
            while interrupt_at is not None and interrupt_at not in err:
                line = running.stderr.readline()
                assert line, f"it ended before it said '{interrupt_at}': {err}"
                err += line
            if interrupt_at is not None:
                time.sleep(0.05)
                running.send_signal(signal_to_send)
            out, rest = running.communicate(timeout=300)
        return said(running.returncode, out, err + rest)

    return run


def _interruptible():
    """Undo what a shell does to the processes that it starts in the background: they ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture(scope="session")
def finished(tmp_path_factory, process):
    """A finished run, made by a process of its own that trained its teacher first; what it said, and its folder."""
    base = tmp_path_factory.mktemp("finished")
    folder = base / "run"
    pair = ["--teacher", "timm:resnet14", "--student", "resnet8"]
    said = process(
        "run", "--plugin", "kdplugin-rkd", *pair, *SMALL, "--out", folder, env={"KDENGINE_CACHE": str(base / "cache")}
    )
    assert said.code == 0, said.err
    return said, folder
