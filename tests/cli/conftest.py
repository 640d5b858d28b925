"""Running the command line: as a function where that is enough, as a process where a process is the point."""

import io
import os
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout

import pytest

FAST = ["-o", "train.precision=fp32", "-o", "train.device=cpu", "-o", "train.batch_size=16", "-o", "train.lr=0.02"]
SMALL = ["--data", "digits@train=32@test=32", "--epochs", "2", *FAST]


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
def finished(tmp_path_factory, said):
    """A finished run that trained its teacher first; what it said, and its folder."""
    from kdengine.cli.main import main

    base = tmp_path_factory.mktemp("finished")
    folder = base / "run"
    pair = ["--teacher", "timm:resnet14", "--student", "resnet8"]
    command = ["run", "--plugin", "kdplugin-rkd", *pair, *SMALL, "--out", str(folder)]
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setenv("KDENGINE_CACHE", str(base / "cache"))
        code = main(command)
    assert code == 0, err.getvalue()
    return said(code, out.getvalue(), err.getvalue()), folder
