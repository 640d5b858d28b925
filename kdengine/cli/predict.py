"""``kdengine predict``: what the student of a run says about image files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from kdengine.cli.options import as_json, trust_option, weights_option
from kdengine.storage.jsontext import json_text

__all__ = ["command"]

UNREADABLE = 2
"""Exit code if an image cannot be read; the others are predicted all the same."""


@click.command("predict")
@click.argument("folder", metavar="RUN")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option("--top", type=click.IntRange(1), default=3, help="Answers per image, the likeliest first.", show_default=True)
@weights_option
@trust_option
@as_json
def command(folder: str, images: tuple[str, ...], top: int, weights: str, trust: bool, as_json: bool) -> int:
    r"""Predict image files, or all images in folders, with the student of a finished run.

    Images are prepared as those of its data were. Files that cannot be read are named, and the exit code is then 2.

    \b
    kdengine predict runs/st photo.jpg more-photos/ --top 5
    """
    from kdengine.cli.options import show_log
    from kdengine.cli.tables import print_table
    from kdengine.shipping.predict import predict

    show_log()
    facts = predict(folder, images, top, weights, trust)
    if as_json:
        click.echo(json_text(facts))
    elif facts["images"]:
        columns = list(facts["images"][0]["predictions"][0])
        print_table(["image", *columns], [row for entry in facts["images"] for row in _rows(entry)])
    for entry in facts["unreadable"]:
        click.echo(f"kdengine: {entry['error']}", err=True)
    return UNREADABLE if facts["unreadable"] else 0


def _rows(entry: Mapping[str, Any]) -> list[list[str]]:
    """The lines of an image; its name stands in the first."""
    answers = [[_cell(value) for value in answer.values()] for answer in entry["predictions"]]
    return [[entry["image"] if number == 0 else "", *cells] for number, cells in enumerate(answers)]


def _cell(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
