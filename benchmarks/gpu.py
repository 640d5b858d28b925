"""Measures on a GPU what makes training fast there, in under ten minutes, and writes docs/results/gpu.md.

    python benchmarks/gpu.py                          or, to try the script itself: --device cpu --quick

Steps of whole runs of kdengine are timed in blocks, between two waits for the device, and so are those of a plain PyTorch loop
with its batch on the device. Without a GPU there is nothing to measure: the script says so, and ends.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import timm
import torch
import torch.nn.functional as F

from kdengine import Comparison, Engine
from kdengine.training.runtime import Runtime

sys.path.insert(0, str(Path(__file__).parent))
from blocks import Bench, Block, Waits
from step import CLASSES, Enough

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "gpu.md"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
METHODS = (None, "st", "rkd", "at")
COMPILE = {"off": False, "on": True, "reduce-overhead": "reduce-overhead"}
COMPILED = ("st", "at")
AUGMENT = ("none", "crop-flip", "crop-flip+rand-augment")


def run(bench: Bench, method: str | None, watch: Block, **train: object) -> float:
    """Seconds of a step of one method."""
    teacher, student = bench.networks()
    with tempfile.TemporaryDirectory() as folder, suppress(Enough):
        plugins, given = [method] if method else [], teacher if method else None
        Engine(given, student, plugins, out=f"{folder}/run", observers=[watch], **bench.settings(**train)).fit()
    return watch.seconds


def together(bench: Bench, lanes: int, **train: object) -> float:
    """Seconds of a batch of so many lanes with soft targets side by side, and the plain student beside them."""
    watch = Block(bench, lanes + 1)
    methods = {f"lane-{number}": ["st"] for number in range(lanes)}
    with tempfile.TemporaryDirectory() as folder, suppress(Enough):
        settings = bench.settings(**train)
        Comparison(*bench.networks(), methods, at_once=lanes + 1, out=f"{folder}/all", observers=[watch], **settings).fit()
    return watch.seconds


def plain(bench: Bench, method: str | None, precision: str) -> float:
    """Seconds of a step of a plain loop: with soft targets if there is a method, else the student alone."""
    torch.manual_seed(0)
    teacher, student = (network.to(bench.device) for network in bench.networks())
    teacher.eval()
    optimizer = torch.optim.SGD(student.parameters(), 1e-4, momentum=0.9, weight_decay=5e-4)
    scaler = torch.amp.GradScaler(bench.device, enabled=precision == "fp16" and bench.device == "cuda")
    x = torch.randn(bench.batch, 3, 32, 32, device=bench.device)
    y = torch.randint(CLASSES, (bench.batch,), device=bench.device)

    def step() -> None:
        with torch.autocast(bench.device, DTYPES[precision], enabled=precision != "fp32"):
            logits = student(x)
            with torch.no_grad():
                wanted = teacher(x) if method else logits
        loss = F.cross_entropy(logits.float(), y)
        if method:
            soft, target = F.log_softmax(logits.float() / 4, 1), F.softmax(wanted.float() / 4, 1)
            loss = 0.1 * loss + 0.9 * 16 * F.kl_div(soft, target, reduction="batchmean")
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    return timed(bench, step)


def timed(bench: Bench, step: Callable[[], None]) -> float:
    """Seconds of a step, the mean of a block after the warm-up."""
    for _ in range(bench.warm_up):
        step()
    bench.wait()
    start = time.perf_counter()
    for _ in range(bench.steps):
        step()
    bench.wait()
    return (time.perf_counter() - start) / bench.steps


def cells(*seconds: float) -> list[str]:
    """Milliseconds, and the ratio of the first to the last."""
    return [*(f"{1e3 * each:.2f}" for each in seconds), f"{seconds[0] / seconds[-1]:.2f}"]


def by_method(bench: Bench) -> Iterator[list[str]]:
    """Rows of methods and precisions beside the plain loop."""
    for precision in bench.precisions:
        for method in METHODS:
            loop = plain(bench, method, precision)
            ours = run(bench, method, Block(bench), precision=precision)
            yield [method or "plain student", precision, *cells(ours, loop)]


def by_layout(bench: Bench) -> Iterator[list[str]]:
    """Rows of memory layouts."""
    for precision in bench.precisions[:2]:
        off, on = (run(bench, "st", Block(bench), precision=precision, channels_last=given) for given in (False, True))
        yield [precision, *cells(on, off)]


def by_lanes(bench: Bench) -> Iterator[list[str]]:
    """Rows of lanes side by side, and the same one by one."""
    alone, student = (run(bench, method, Block(bench)) for method in ("st", None))
    for lanes in bench.lanes:
        yield [str(lanes), *cells(together(bench, lanes), lanes * alone + student)]


def by_augmentation(bench: Bench) -> Iterator[list[str]]:
    """Rows of augmentations."""
    baseline = run(bench, "st", Block(bench), augment=AUGMENT[0])
    for augment in AUGMENT[1:]:
        yield [augment, *cells(run(bench, "st", Block(bench), augment=augment), baseline)]


def by_compilation(bench: Bench) -> Iterator[list[str]]:
    """Rows of compiled forwards."""
    for method in COMPILED:
        baseline = run(bench, method, Block(bench))
        for name, given in list(COMPILE.items())[1:]:
            yield [method, name, *cells(run(bench, method, Block(bench), compile=given), baseline)]


def waits(bench: Bench) -> Iterator[list[str]]:
    """Rows of how often a step waits for the device, and where."""
    for method in METHODS:
        watch = Waits(bench)
        run(bench, method, watch)
        count = f"{sum(watch.places.values()) / bench.steps:.2f}" if bench.device == "cuda" else "none to wait for"
        yield [method or "plain student", count, ", ".join(place for place, _ in watch.places.most_common(4))]


def measure(bench: Bench) -> None:
    """Fill the page; what takes longest comes last."""
    facts = Runtime(bench.device).describe()
    bench.say("# On a GPU\n\nMade by `python benchmarks/gpu.py`.\n")
    bench.say(f"{bench.teacher} -> {bench.student}, batch {bench.batch} of [3, 32, 32], {CLASSES} classes;")
    bench.say(f"{bench.steps} steps after {bench.warm_up}; {facts['device_name']}, torch {torch.__version__}, ")
    bench.say(f"auto = {facts['precision']}, in which all but the first two tables are measured.")
    ours = ["kdengine, ms", "plain loop, ms", "ratio"]
    bench.table("Beside a plain loop in the same precision", ["method", "precision", *ours], by_method(bench))
    bench.table("Memory layout", ["precision", "channels_last, ms", "off, ms", "ratio"], by_layout(bench))
    bench.table("Waits for the device", ["method", "a step", "where"], waits(bench))
    bench.table("Lanes", ["lanes with st, and the plain student", "together, ms", "one by one, ms", "ratio"], by_lanes(bench))
    bench.table("Augmentation", ["train.augment", "ms", "none, ms", "ratio"], by_augmentation(bench))
    bench.table("Compilation", ["method", "train.compile", "ms", "off, ms", "ratio"], by_compilation(bench))


def main(arguments: list[str] | None = None) -> None:
    """Print the tables, and write them if they were measured on a GPU."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--minutes", type=float, default=9.0, help="when to leave out what is left")
    parser.add_argument("--quick", action="store_true", help="few steps of small networks, and nothing written")
    parser.add_argument("--out", type=Path, default=RESULTS, help="file to write")
    given = parser.parse_args(arguments)
    if given.device == "cuda" and not torch.cuda.is_available():
        print("There is no GPU here, so nothing is measured. To try the script: --device cpu --quick.")
        return
    small = {"teacher": "resnet8", "batch": 8, "warm_up": 1, "steps": 1, "lanes": (2,), "precisions": ("fp32",)}
    bench = Bench(given.device, ends=time.monotonic() + 60 * given.minutes, **(small if given.quick else {}))
    measure(bench)
    if given.device == "cuda" and not given.quick:
        given.out.write_text("\n".join(bench.lines) + "\n", encoding="utf-8")
        print(f"\nWritten: {given.out}")


if __name__ == "__main__":
    import kdzoo

    main()
