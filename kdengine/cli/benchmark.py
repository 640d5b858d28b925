"""``kdengine benchmark``: what students cost where they run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from kdengine.cli.options import as_json, trust_option, weights_option
from kdengine.storage.jsontext import json_text

__all__ = ["command"]


@click.command("benchmark")
@click.argument("folders", nargs=-1, required=True, metavar="RUN...")
@click.option("--batch", type=click.IntRange(1), default=64, help="Images in a batch, besides 1.", show_default=True)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda", "mps"]), default="auto", show_default=True)
@weights_option
@trust_option
@as_json
def command(folders: tuple[str, ...], batch: int, device: str, weights: str, trust: bool, as_json: bool) -> None:
    r"""Measure students and their teachers on this device: latency, memory, parameters, FLOPs.

    Folders may hold several runs, such as a comparison. The numbers are kept in each run folder, and 'kdengine report' shows
    them.

    \b
    kdengine benchmark runs/st runs/rkd
    """
    from kdengine.cli.options import show_log
    from kdengine.report.pastrun import FINISHED, find_runs
    from kdengine.shipping.benchmark import benchmark

    show_log()
    runs = find_runs(folders)
    finished = [run for run in runs if run.state == FINISHED] or runs  # with none finished, the error says how to resume
    results = benchmark([run.folder for run in finished], batch, device, weights, trust)
    if as_json:
        click.echo(json_text({"runs": results}))
    else:
        _print(results, [run.method for run in finished])


def _print(results: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> None:
    from kdengine.cli.tables import print_table
    from kdengine.report.benchmarks import Benchmark, cost_columns, machines

    known = [Benchmark.of(result) for result in results]
    batches = known[0].batches
    click.echo(f"{machines(known)} Quartiles in brackets.\n")
    titles = ("parameters", "file MB", *cost_columns(batches))
    rows = list(dict.fromkeys(row for result, method in zip(results, methods, strict=True) for row in _rows(result, method)))
    print_table(["network", "method", *titles], rows)


def _rows(result: Mapping[str, Any], method: str) -> Iterator[tuple[str, ...]]:
    """The teacher, if it was measured, and the student."""
    from kdengine.report.benchmarks import Benchmark

    known = Benchmark.of(result)
    for role in ("teacher", "student"):
        facts = result[role]
        if facts is None:
            continue
        size = f"{facts['file_bytes'] / 1e6:.2f}" if "file_bytes" in facts else ""
        cells = known.cells(role, known.batches)
        shown, medians = cells[: -len(known.batches)], cells[-len(known.batches) :]
        spreads = [facts["latency_ms"][str(count)] for count in known.batches]
        timed = [f"{text} [{one['low']:.2f}, {one['high']:.2f}]" for text, one in zip(medians, spreads, strict=True)]
        yield (facts["name"], method if role == "student" else "teacher", f"{facts['parameters']:,}", size, *shown, *timed)
