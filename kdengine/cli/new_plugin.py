"""``kdengine new-plugin``: a package for a plugin of one's own, which installs and passes its tests as it stands."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kdengine.authoring.kinds import KINDS
from kdengine.cli.options import as_json

if TYPE_CHECKING:
    from kdengine.authoring.single_file import SingleFile

__all__ = ["command"]

EXAMPLES = "; ".join(f"{kind.name}: {kind.summary}" for kind in KINDS.values())


@click.command("new-plugin")
@click.argument("name", default="")
@click.option("--kind", type=click.Choice(list(KINDS)), help=f"What the example is.  [default: method]  ({EXAMPLES})")
@click.option("--from", "file", metavar="FILE", help="Take the method in this file along, in place of an example.")
@click.option("--out", metavar="FOLDER", help="Folder of the package, which must not exist.  [default: kdplugin-NAME]")
@click.option("--author", metavar="NAME", help="'NAME' or 'NAME <EMAIL>'.  [default: git's user.name]")
@as_json
def command(name: str, kind: str | None, file: str | None, out: str | None, author: str | None, as_json: bool) -> None:
    r"""Write the package kdplugin-NAME: code, tests on the contract, README, licence, workflow.

    It installs and passes its tests as it stands. With --from, NAME is by default that of the method.

    \b
    kdengine new-plugin my-kd
    kdengine new-plugin --from ./my_kd.py
    kdengine new-plugin ages --kind task --author 'Ada Lovelace'
    """
    from kdengine.authoring.author import Author
    from kdengine.authoring.names import PREFIX
    from kdengine.authoring.package import NewPlugin, write_package

    taken = _read(file, kind)
    name = _checked(name, taken)
    package = f"{PREFIX}{name}"
    new = NewPlugin(name, KINDS[kind or "method"], Author.of(author, package), taken)
    folder, contents = Path(os.path.expanduser(out or package)), new.contents()
    write_package(folder, contents)
    commands = _next(folder)
    notes = list(taken.notes()) if taken else []
    if as_json:
        facts = {"package": package, "plugin": new.entry, "folder": str(folder), "files": sorted(contents)}
        click.echo(json.dumps({**facts, "notes": notes, "next": commands}))
        return
    click.echo(f"Wrote {package} to {folder}: {len(contents)} files, with the {new.kind.name} '{new.entry}'. Next:\n")
    click.echo("\n".join(f"    {line}" for line in commands))
    click.echo("".join(f"\nNote: {note}." for note in notes), nl=bool(notes))


def _read(file: str | None, kind: str | None) -> SingleFile | None:
    """The file to take along, if any.

    Raises:
        KDError: it cannot be, or is to be something else than a method.
    """
    from kdengine.authoring.single_file import SingleFile
    from kdengine.errors import SettingsError

    if file is None:
        return None
    if kind not in (None, "method"):
        raise SettingsError(f"--from takes a method along, so --kind {kind} does not go with it. Leave out one of them.")
    return SingleFile.read(Path(os.path.expanduser(file)))


def _checked(name: str, file: SingleFile | None) -> str:
    """The name of the package, without its prefix; by default from the only method of the file.

    Raises:
        KDError: there is none, it is not allowed, or it is taken.
    """
    from kdengine.authoring.names import check_free, check_name, normalised
    from kdengine.errors import PluginError
    from kdengine.plugins.registry import Registry

    methods = list(file.methods) if file else []
    if not name and len(methods) == 1:
        name = normalised(methods[0])
    if not name:
        several = f"'{file.path}' has the methods {', '.join(methods)}: name" if file else "Name"
        raise PluginError(f"{several} the plugin, as in: kdengine new-plugin my-kd{f' --from {file.path}' if file else ''}.")
    check_name(name)
    registry = Registry()
    for taken in dict.fromkeys((name, *methods)):
        check_free(taken, registry)
    return name


def _next(folder: Path) -> list[str]:
    """What to type next."""
    path = str(folder) if folder.is_absolute() or str(folder).startswith(".") else f"./{folder}"
    return [
        f"python -m pip install -e {shlex.quote(f'{path}[test]')}",
        f"python -m pytest {shlex.quote(path)}",
        f"kdengine plugins check {shlex.quote(path)}",
    ]
