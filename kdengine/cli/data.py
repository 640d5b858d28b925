"""``kdengine data``: the data sets that ``--data`` accepts."""

from __future__ import annotations

import json

import click

from kdengine.cli.options import as_json

__all__ = ["command"]


@click.command("data")
@click.argument("spec", default="")
@as_json
def command(spec: str, as_json: bool) -> None:
    """List the data sets that --data accepts; with SPEC, load one and describe it."""
    from kdengine.cli.tables import print_table
    from kdengine.data.load import BUILT_IN, load_data
    from kdengine.plugins.registry import Registry

    if spec:
        facts = load_data(spec, Registry()).describe()
        click.echo(json.dumps(facts) if as_json else "\n".join(f"{key}: {value}" for key, value in facts.items()))
    elif as_json:
        click.echo(json.dumps({"data": BUILT_IN}))
    else:
        print_table(["data", "what it is"], BUILT_IN.items())
        click.echo("\nAdd @train=N or @test=N to use only the first N images, for example digits@train=500.")
