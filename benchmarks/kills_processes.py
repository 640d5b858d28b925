"""Kills a run over two processes at random moments, resumes it, and checks that it ends like an undisturbed one.

    python benchmarks/kills_processes.py

``torchrun`` starts the processes. In turn, the first, the last or all of them are killed with SIGKILL while they train, at
moments drawn at random, and the command is resumed until it ends. After every kill the folder must be readable, and its state
must be that of all processes. At the end all weights, and every number of every row except times must be those of an
undisturbed run over as many processes, bit for bit.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import time
from itertools import cycle
from pathlib import Path

import torch
from kills import DATA, call, check_equal, check_readable, ended, environment, start_or_resume

from kdengine.runs.whole_state import processes_of
from kdengine.training.runtime import Runtime

UNEVEN = [part.replace("digits@train=512@test=256", "digits@train=509@test=251") for part in DATA]
OPTIONS = {"batch_size": 31, "drop_last": "false", "mixup": 0.2, "ema": 0.99, "accumulate": 3, "device": "cpu"}
"""Batches that two processes cannot halve, and options whose state lies in various places."""
COMMAND = [
    *("run", "--plugin", "rkd", "--plugin", "st", "--student", "resnet8@drop_rate=0.2", "--epochs", "5"),
    *(part for name, value in OPTIONS.items() for part in ("-o", f"train.{name}={value}")),
]
VICTIMS = {"the first": lambda ranks: ranks[:1], "the last": lambda ranks: ranks[-1:], "all": lambda ranks: ranks}
SAVES = 12
"""A process is killed after so many saves at most; with the fraction of one, at some point of the next, or between the two."""
SAVING = 0.4
"""Seconds from one save to the next, about."""
PATIENCE = 60.0
"""Seconds after a kill in which everything must have ended: torchrun waits for up to 30."""


def main() -> None:
    """Kill, resume, compare, and print what happened."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--work", type=Path, default=Path("runs/kills-processes"), help="folder for the runs; emptied first")
    arguments = parser.parse_args()
    work, moments = arguments.work, random.Random(arguments.seed)
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    call(["train", "--model", "resnet20", "--epochs", "2", *UNEVEN, "--out", str(work / "teacher")])
    command = [*COMMAND, "--teacher", "resnet20", "--teacher-weights", str(work / "teacher"), *UNEVEN]
    start = time.perf_counter()
    finish(started([*command, "--out", str(work / "undisturbed")], arguments.processes))
    length = time.perf_counter() - start
    done, runs, within, victims = 0, 0, 0, cycle(VICTIMS)
    while done < arguments.kills:
        runs += 1
        folder = work / f"killed-{runs}"
        while not ended(folder) and done < arguments.kills:
            torchrun = started(start_or_resume("run", command, folder), arguments.processes)
            saves, victim = moments.uniform(1, SAVES), next(victims)
            if not killed(torchrun, folder, saves, victim):
                continue
            if ended(folder):  # killed between its result and its end
                break
            done += 1
            check_readable(folder)
            where = stopped_at(folder, arguments.processes)
            within += "step" in where
            print(f"killed {victim} after {saves:.1f} saves: {where}", flush=True)
        if not ended(folder):
            finish(started(start_or_resume("run", command, folder), arguments.processes))
        check_equal(work / "undisturbed", folder)
    machine = Runtime("cpu").describe()["device_name"]
    python = f"torch {torch.__version__}, Python {platform.python_version()}"
    print(f"{done} kills in {runs} runs of {arguments.processes} processes, {length:.0f} s each undisturbed")
    print(f"{within} kills left a state within an epoch")
    print("weights byte for byte, rows and results number for number as undisturbed")
    print(f"({machine}, 1 thread each, fp32, {python}, seed {arguments.seed})")


def started(arguments: list[str], processes: int) -> subprocess.Popen[bytes]:
    """``torchrun`` with a command of kdengine."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m", "kdengine"]
    return subprocess.Popen(
        [sys.executable, *torchrun, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment()
    )


def finish(torchrun: subprocess.Popen[bytes]) -> None:
    """Wait for a command that must succeed."""
    _, errors = torchrun.communicate()
    if torchrun.returncode != 0:
        raise SystemExit(errors.decode())


def killed(torchrun: subprocess.Popen[bytes], folder: Path, saves: float, victim: str) -> bool:
    """Kill processes of a command after the given number of saves; returns whether they were still running."""
    file = folder / "state" / "lane.pt"
    seen, saved = 0, written(file)
    while seen < int(saves) and torchrun.poll() is None:
        now = written(file)
        seen, saved = seen + (now != saved), now
        time.sleep(0.005)
    time.sleep(saves % 1 * SAVING)
    if torchrun.poll() is not None or not (running := workers(torchrun.pid)):
        finish(torchrun)
        return False
    for process in VICTIMS[victim](running):
        os.kill(process, signal.SIGKILL)
    torchrun.communicate(timeout=PATIENCE)
    return True


def written(file: Path) -> int:
    """When a file was written; 0 if there is none."""
    try:
        return file.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def workers(torchrun: int) -> list[int]:
    """The processes that ``torchrun`` has started, by rank."""
    children = Path(f"/proc/{torchrun}/task/{torchrun}/children").read_text(encoding="utf-8").split()
    ranks: dict[int, int] = {}
    for child in children:
        variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        ranks |= {int(line[5:]): int(child) for line in variables if line.startswith(b"RANK=")}
    return [ranks[rank] for rank in sorted(ranks)]


def stopped_at(folder: Path, processes: int) -> str:
    """What the state of a killed run holds; it must be that of all processes."""
    file = folder / "state" / "lane.pt"
    if not file.exists():
        return "no state yet"
    state = torch.load(file, weights_only=True)
    assert processes_of(state) == processes, f"{file} lacks a process"
    steps = f", step {state['meter']['steps']}" if state["meter"]["steps"] else ""
    return f"state of epoch {len(state['history']) + bool(steps)}{steps}"


if __name__ == "__main__":
    main()
