"""``kdengine evaluate``: measure the student of a run folder again."""

from __future__ import annotations

from pathlib import Path

import click

from kdengine.cli.options import as_json, trust_option
from kdengine.storage.jsontext import json_text

__all__ = ["command"]


@click.command("evaluate")
@click.argument("folder")
@click.option(
    "--weights",
    type=click.Choice(["last", "best"]),
    default="last",
    help="Weights of the last or of the best epoch.",
    show_default=True,
)
@click.option("--data", metavar="SPEC", help="Evaluate on other data than the run used.")
@trust_option
@as_json
def command(folder: str, weights: str, data: str | None, trust: bool, as_json: bool) -> None:
    """Evaluate the student of a finished run again, in fp32."""
    from kdengine.cli.options import show_log
    from kdengine.cli.tables import print_table
    from kdengine.report.columns import number
    from kdengine.report.pastrun import PastRun
    from kdengine.runs.evaluate_run import evaluate_folder

    show_log()
    facts = evaluate_folder(folder, weights, data, trust)
    if as_json:
        click.echo(json_text(facts))
    else:
        measures = [measure for measure in PastRun.read(Path(folder)).scoring.measures if measure.name in facts]
        row = [facts["student"], weights, facts["data"], *(number(measure, facts[measure.name]) for measure in measures)]
        print_table(["network", "weights", "data", *(measure.title for measure in measures)], [row])
