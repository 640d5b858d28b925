"""``kdengine export``: the student of a run as a file that runs elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from kdengine.cli.options import as_json, trust_option, weights_option
from kdengine.storage.jsontext import json_text

__all__ = ["command"]


def _batch(ctx: click.Context, param: click.Parameter, value: str) -> int | None:
    """The number of images in every batch; None for any."""
    if value == "dynamic":
        return None
    if not (value.isascii() and value.isdecimal() and int(value)):
        raise click.BadParameter(f"'{value}' is neither a number of images from 1 on nor 'dynamic'.", ctx, param)
    return int(value)


@click.command("export")
@click.argument("folder", metavar="RUN")
@click.option("--to", required=True, type=click.Choice(["onnx", "torch-export", "safetensors"]), help="Format of the file.")
@click.option("--out", metavar="FILE", help="The file.  [default: export.onnx, .pt2 or .safetensors in the run folder]")
@weights_option
@click.option(
    "--batch",
    metavar="N|dynamic",
    default="dynamic",
    callback=_batch,
    help="Images in every batch; dynamic allows any number.",
    show_default=True,
)
@click.option("--raw", is_flag=True, help="Leave normalisation and resize out of the graph.")
@click.option("--data", metavar="SPEC", help="Check the file on other data than the run used.")
@trust_option
@as_json
def command(
    folder: str,
    to: str,
    out: str | None,
    weights: str,
    batch: int | None,
    raw: bool,
    data: str | None,
    trust: bool,
    as_json: bool,
) -> None:
    r"""Export the student of a finished run, and check the file on test images.

    The file takes float32 images [B, C, H, W] from 0 to 1, of the size of the data; normalisation and resize are inside, as
    are the names of the classes.

    \b
    kdengine export runs/st --to onnx --out student.onnx
    """
    from kdengine.cli.options import show_log
    from kdengine.shipping.export import export_student

    show_log()
    facts = export_student(folder, to, out, weights=weights, batch=batch, raw=raw, data=data, trust=trust)
    click.echo(json_text(facts) if as_json else _summary(facts))


def _summary(facts: Mapping[str, Any]) -> str:
    notes = facts["notes"]
    shape = ", ".join(map(str, ["batch" if notes["batch"] == "any" else notes["batch"], *notes["input_size"]]))
    return (
        f"Wrote {facts['file']} ({facts['bytes'] / 1e6:.2f} MB)\n"
        f"  takes    images [{shape}], float32, {notes['input_values']}\n"
        f"  gives    logits [{', '.join([shape.split(',')[0], *map(str, facts['output_size'])])}]\n"
        f"  checked  on {facts['images']} test images: outputs differ from the student's by at most {facts['difference']:.2g}"
    )
