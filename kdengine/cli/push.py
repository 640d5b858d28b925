"""``kdengine push``: the student of a run on the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from kdengine.cli.options import as_json, trust_option, weights_option
from kdengine.storage.jsontext import json_text

__all__ = ["command"]


@click.command("push")
@click.argument("folder", metavar="RUN")
@click.argument("repo", metavar="REPO")
@click.option("--out", metavar="FOLDER", help="Keep the files in a new folder.")
@click.option("--dry-run", is_flag=True, help="Write the folder, and upload nothing.")
@weights_option
@click.option("--private", is_flag=True, help="Create a private repository.")
@click.option("--license", metavar="ID", help="Licence of the student, such as apache-2.0.  [default: unknown]")
@click.option("--message", metavar="TEXT", help="Message of the commit.")
@click.option("--data", metavar="SPEC", help="Data in place of the run's, where data is needed.")
@trust_option
@as_json
def command(folder: str, repo: str, as_json: bool, **options: Any) -> None:
    r"""Publish the student of a finished run on the Hugging Face Hub, with a card.

    REPO is USER/NAME, or NAME for one of your own; it is created unless it exists. The card names teacher, data, method,
    scores, seeds, preprocessing, classes, licences and the command that repeats the run. Read it first:

    \b
    kdengine push runs/st me/resnet8-digits --dry-run --out resnet8-digits
    kdengine push runs/st me/resnet8-digits --license apache-2.0
    """
    from kdengine.cli.options import show_log
    from kdengine.shipping.push import push

    show_log()
    facts = push(folder, repo, **options)
    click.echo(json_text(facts) if as_json else _summary(facts))


def _summary(facts: Mapping[str, Any]) -> str:
    loads = f'timm.create_model("hf-hub:{facts["repo"]}", pretrained=True)'
    how = f"  loads    {loads}" if facts["timm"] else f"  loads    with kdengine; not with timm, for {facts['not_timm']}"
    place = f"Pushed to {facts['url']}" if facts["url"] else f"Wrote {facts['folder']}; nothing was uploaded"
    return f"{place}\n  files    {', '.join(facts['files'])}\n{how}"
