"""``kdengine evaluate``: measure the student of a run folder again."""

from __future__ import annotations

import click

from kdengine.cli.options import as_json, trust_option
from kdengine.storage.jsontext import json_text

__all__ = ["command"]


@click.command("evaluate")
@click.argument("folder")
@click.option("--weights", type=click.Choice(["last", "best"]), default="last", help="Which weights of the student.")
@click.option("--data", metavar="SPEC", help="Other data than the run's.")
@trust_option
@as_json
def command(folder: str, weights: str, data: str | None, trust: bool, as_json: bool) -> None:
    """Measure top-1 and top-5 accuracy of the student in a run folder, in fp32."""
    from kdengine.cli.options import show_log
    from kdengine.cli.tables import print_table
    from kdengine.runs.evaluate_run import evaluate_folder

    show_log()
    facts = evaluate_folder(folder, weights, data, trust)
    if as_json:
        click.echo(json_text(facts))
    else:
        row = [facts["student"], weights, facts["data"], f"{facts['top1']:.2f}", f"{facts['top5']:.2f}", f"{facts['loss']:.4f}"]
        print_table(["network", "weights", "data", "top-1 %", "top-5 %", "loss"], [row])
