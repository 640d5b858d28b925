"""``kdengine data``: the data sets that ``--data`` accepts."""

from __future__ import annotations

import json

import click

from kdengine.cli.options import as_json, show_log

__all__ = ["command"]


@click.command("data")
@click.argument("spec", default="")
@click.option("--example", metavar="FOLDER", help="Write a small folder of images, made from the digits, to try things on.")
@click.option("--bad", is_flag=True, help="With --example: add a file that cannot be read.")
@as_json
def command(spec: str, example: str | None, bad: bool, as_json: bool) -> None:
    r"""List the data sets that --data accepts; with SPEC, load one and describe it.

    \b
    kdengine data imagefolder:~/flowers@split=0.2
    kdengine data --example digits-folder
    """
    from kdengine.cli.tables import print_table
    from kdengine.data.load import BUILT_IN, load_data
    from kdengine.plugins.registry import Registry

    if bad and example is None:
        raise click.UsageError("--bad adds a file to the folder of --example: name one with --example, or leave out --bad.")
    if example is not None and spec:
        raise click.UsageError(f"--example writes a folder and describes no data: leave out '{spec}', or --example.")
    if example is not None:
        _write_example(example, bad, as_json)
    elif spec:
        show_log()
        facts = load_data(spec, Registry()).describe()
        click.echo(json.dumps(facts) if as_json else "\n".join(f"{key}: {value}" for key, value in facts.items()))
    elif as_json:
        click.echo(json.dumps({"data": BUILT_IN}))
    else:
        print_table(["data", "what it is"], BUILT_IN.items())
        click.echo("\nAdd @train=N or @test=N to use only the first N images, for example digits@train=500.")


def _write_example(folder: str, bad: bool, as_json: bool) -> None:
    """Write the example folder, and say how to use it."""
    from kdengine.data.example import write_example

    spec = f"imagefolder:{folder}@size=32@split=0.2{'@skip_bad=true' if bad else ''}"
    count = write_example(folder, bad)
    if as_json:
        click.echo(json.dumps({"folder": folder, "files": count, "spec": spec}))
    else:
        click.echo(f"Wrote {count:,} image files in 10 folders. Use them with --data {spec}")
