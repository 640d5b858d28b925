"""Measures kdengine beside torchdistill, nvidia-modelopt and timm's distillation tasks: the same work, in turn.

    python benchmarks/peers.py            or: --methods st,rkd --rounds 2

Every library trains in a process of its own, the peers in an environment of their own, made with pip if it is not there. All
have the same networks, weights, batches (in memory) and optimizer, and take their steps in turn, one library after the other in
every round. A peer's step is the loop that its documentation shows; kdengine's is all that a run does for a batch.

"fp32" has both in float32. "default" has each as its users run it: kdengine in precision 'auto', the peer in float32.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file

from kdengine.cache import cache_folder

sys.path.insert(0, str(Path(__file__).parent / "peer_workers"))
from client import Worker, make_environment
from methods import METHODS, ONLY_PEERS
from protocol import CLASSES, SAMPLES
from table import Measured, agreement, heading, lines_of, summary

HERE = Path(__file__).parent / "peer_workers"
ZOO = Path(__file__).parents[1] / "zoo" / "src"
PEERS = {"torchdistill": "run_torchdistill.py", "nvidia-modelopt": "run_modelopt.py", "timm": "run_timm.py"}
OURS = {"fp32": "fp32", "default": "auto"}
"""What a row's precision is in kdengine's settings."""
BATCHES = 4
WARM_UP = 2
SETTLING = 30


def write_scene(folder: Path, teacher: str, student: str, batch: int) -> None:
    """Write the networks and batches of the measurement; see ``protocol.Scene``."""
    torch.manual_seed(0)
    (folder / "scene.json").write_text(json.dumps({"teacher": teacher, "student": student}), encoding="utf-8")
    for role, name in (("teacher", teacher), ("student", student)):
        network = timm.create_model(name, num_classes=CLASSES)
        with torch.no_grad():
            for _ in range(SETTLING):  # batch normalisation learns its statistics, or an untrained teacher would explode
                network(torch.randn(batch, 3, 32, 32))
        save_file(network.state_dict(), folder / f"{role}.safetensors")
    tensors = {}
    for number in range(BATCHES):
        tensors[f"x{number}"] = torch.randn(batch, 3, 32, 32)
        tensors[f"y{number}"] = torch.randint(CLASSES, (batch,))
        tensors[f"index{number}"] = torch.randperm(SAMPLES)[:batch]
    save_file(tensors, folder / "batches.safetensors")


def start(folder: Path, python: Path) -> tuple[dict[str, Worker], dict[str, Worker]]:
    """The workers of kdengine, one a precision, and those of the peers."""
    ours = {name: Worker([sys.executable, HERE / "run_kdengine.py", folder], [], folder / f"{name}.log") for name in OURS}
    theirs = {
        name: Worker([python, HERE / file, folder], [ZOO], folder / f"{name}.log", alone=True) for name, file in PEERS.items()
    }
    return ours, theirs


def measure(name: str, ours: dict[str, Worker], theirs: dict[str, Worker], rounds: int, steps: int) -> Measured:
    """Let all libraries take their steps of a method in turn."""
    losses, workers = {}, {**ours, **theirs}
    for key, worker in workers.items():
        terms = worker.prepare(name, OURS.get(key, "fp32"))
        if terms and key != "default":
            losses["kdengine" if key in OURS else key] = terms["total"]
    for worker in workers.values():
        worker.steps(WARM_UP)
    medians: dict[str, list[float]] = {key: [] for key in workers}
    for _ in range(rounds):
        for key, worker in workers.items():
            if seconds := worker.steps(steps):
                medians[key].append(statistics.median(seconds))
    return Measured(
        name,
        {key: medians[key] for key in ours},
        {key: medians[key] for key in theirs if medians[key]},
        {("kdengine" if key in ours else key): worker.ready for key, worker in workers.items() if worker.ready is not None},
        losses,
        METHODS[name].note,
    )


def chosen(text: str) -> list[str]:
    """The methods named in ``--methods``."""
    names = list(METHODS) if text == "all" else [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in METHODS]
    if unknown:
        sys.exit(f"--methods {', '.join(unknown)}: not compared. Allowed: all, {', '.join(METHODS)}.")
    return names


def facts(workers: dict[str, Worker]) -> str:
    """Hardware and versions."""
    told: dict[str, object] = {}
    for worker in workers.values():
        told |= worker.ask(do="facts").get("facts", {})
    names = ("kdengine", *PEERS, "torch")
    versions = ", ".join(f"{name} {told[name]}" for name in names if name in told)
    return f"{told['device_name']}, {told['threads']} threads, auto = {told['precision']}\n{versions}"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", default="all", help=f"all, or some of {', '.join(METHODS)}")
    parser.add_argument("--rounds", type=int, default=9, help="times that every library has its turn")
    parser.add_argument("--steps", type=int, default=4, help="steps of a turn")
    parser.add_argument("--teacher", default="resnet32")
    parser.add_argument("--student", default="resnet8")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--environment", type=Path, default=cache_folder("peers"), help="folder of the peers' environment")
    arguments = parser.parse_args()
    names = chosen(arguments.methods)
    try:
        python = make_environment(arguments.environment, torch.__version__.partition("+")[0])
    except subprocess.CalledProcessError as error:
        sys.exit(f"The environment of the peers cannot be made: {error}. Give one with --environment.")
    with tempfile.TemporaryDirectory() as folder:
        write_scene(Path(folder), arguments.teacher, arguments.student, arguments.batch)
        ours, theirs = start(Path(folder), python)
        print(f"{arguments.teacher} -> {arguments.student}, batch {arguments.batch} of [3, 32, 32], {CLASSES} classes;")
        print(f"{arguments.rounds} rounds of {arguments.steps} steps each\n{facts({**ours, **theirs})}\n", flush=True)
        print(heading(list(PEERS)))
        rows = []
        for name in names:
            rows.append(measure(name, ours, theirs, arguments.rounds, arguments.steps))
            print(lines_of(rows[-1], list(PEERS)), flush=True)
        for worker in (*ours.values(), *theirs.values()):
            worker.stop()
    print("", *summary(rows), "", agreement(rows), "", sep="\n")
    print("\n".join(f"{peer} also has {what}, which kdengine does not." for peer, what in ONLY_PEERS.items()))


if __name__ == "__main__":
    import kdzoo

    main()
