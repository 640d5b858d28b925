"""``kdengine evaluate``: measure the student of a run folder again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from kdengine.cli.options import as_json, trust_option, weights_option
from kdengine.storage.jsontext import json_text

__all__ = ["command", "print_probe"]

MANY = 25
"""Classes up to which the confusion matrix is printed; of more, the most frequent mistakes are."""
MISTAKES = 20


@click.command("evaluate")
@click.argument("folder")
@weights_option
@click.option("--data", metavar="SPEC", help="Evaluate on other data than the run used.")
@click.option("--probe", metavar="SPEC", help="Instead: how well the embedding tells the classes of this labelled data apart.")
@click.option("--per-class", is_flag=True, help="Also show the accuracy of each class and the confusion matrix.")
@trust_option
@as_json
def command(
    folder: str, weights: str, data: str | None, probe: str | None, per_class: bool, trust: bool, as_json: bool
) -> None:
    r"""Evaluate the student of a finished run again, in fp32.

    \b
    kdengine evaluate runs/st --per-class
    kdengine evaluate runs/unlabelled --probe digits
    """
    from kdengine.cli.options import show_log
    from kdengine.cli.tables import print_table
    from kdengine.report.columns import number
    from kdengine.report.pastrun import PastRun
    from kdengine.runs.evaluate_run import evaluate_folder
    from kdengine.runs.probe_run import probe_folder

    show_log()
    if probe is not None:
        if data is not None or per_class:
            raise click.UsageError("--probe names the data, and has no classes of its own: leave out --data and --per-class.")
        probed = probe_folder(folder, probe, weights, trust)
        click.echo(json_text(probed)) if as_json else print_probe(probed)
        return
    facts = evaluate_folder(folder, weights, data, trust, per_class)
    if as_json:
        click.echo(json_text(facts))
        return
    measures = [measure for measure in PastRun.read(Path(folder)).scoring.measures if measure.name in facts]
    row = [facts["student"], weights, facts["data"], *(number(measure, facts[measure.name]) for measure in measures)]
    print_table(["network", "weights", "data", *(measure.title for measure in measures)], [row])
    if per_class:
        _print_classes(facts)


def print_probe(facts: Mapping[str, Any]) -> None:
    """Print a row for the student of a run that was probed, the same network untrained, and its teachers."""
    from kdengine.cli.tables import print_table

    rows = [[row["name"], row["role"], f"{row['knn']:.2f}", f"{row['linear']:.2f}"] for row in facts["networks"]]
    print_table(["network", f"on {facts['data']}", "k-NN %", "linear probe %"], rows)


def _print_classes(facts: Mapping[str, Any]) -> None:
    """The accuracy of each class, then the confusion matrix or, of many classes, the most frequent mistakes."""
    from kdengine.cli.tables import print_table
    from kdengine.storage.confusion import ConfusionMatrix

    matrix = ConfusionMatrix(facts["classes"], facts["confusion"])
    rows = [
        [row["class"], row["images"], "" if row["accuracy"] is None else f"{row['accuracy']:.2f}", _mostly(row)]
        for row in facts["per_class"]
    ]
    click.echo()
    print_table(["class", "images", "accuracy %", "mostly taken for"], rows)
    click.echo()
    if len(matrix.classes) <= MANY:
        counts = [[name, *(count or "" for count in line)] for name, line in zip(matrix.classes, matrix.counts, strict=True)]
        print_table(["true \\ predicted", *matrix.classes], counts)
    else:
        print_table(["true", "predicted", "images"], matrix.mistakes(MISTAKES))


def _mostly(row: Mapping[str, Any]) -> str:
    return f"{row['confused_with']} ({row['confused']})" if row["confused"] else ""
