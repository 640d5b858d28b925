"""``kdengine settings``: every setting and option, with its default and what it does."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import click

from kdengine.cli.options import as_json, glob_of

if TYPE_CHECKING:
    from kdengine.config.catalogue import Entry

__all__ = ["command"]


@click.command("settings")
@click.argument("pattern", default="")
@click.option("--markdown", is_flag=True, help="Print Markdown tables, as in docs/training.md.")
@as_json
def command(pattern: str, markdown: bool, as_json: bool) -> None:
    r"""List the settings whose name contains PATTERN or matches it as a glob, or the options of the method PATTERN.

    If no name does, those whose description contains it.

    All of them are set with -o NAME=VALUE, or in a TOML file.

    \b
    kdengine settings           every setting of a run
    kdengine settings lr        those with lr in their name
    kdengine settings rkd       the options of a method
    """
    from kdengine.cli.tables import print_table
    from kdengine.config.catalogue import to_markdown, values_of

    entries = _matching(pattern)
    if as_json:
        click.echo(json.dumps({"settings": [entry.to_dict() for entry in entries]}, default=str))
    elif markdown:
        click.echo(to_markdown(entries), nl=False)
    else:
        for number, group in enumerate(dict.fromkeys(entry.group for entry in entries)):
            rows = [[e.name, e.shown_default, values_of(e), e.help] for e in entries if e.group == group]
            click.echo(("\n" if number else "") + group)
            print_table(["setting", "default", "values", "meaning"], rows)


def _matching(pattern: str) -> list[Entry]:
    """The settings and options that a pattern names.

    Raises:
        SettingsError: there are none.
    """
    from kdengine.config.catalogue import every_setting
    from kdengine.errors import SettingsError, did_you_mean

    every = every_setting()
    wanted, glob = pattern.lower(), glob_of(pattern)
    found = [entry for entry in every if fnmatchcase(entry.name.lower(), glob)]
    method = _options_of(pattern, required=not found) if pattern else []
    found = found or ([] if method else [entry for entry in every if wanted in entry.help.lower()])
    if not found and not method:
        names = [entry.name.rpartition(".")[2] for entry in every]
        near = did_you_mean(wanted.rpartition(".")[2], names) or "'kdengine settings' lists all settings."
        raise SettingsError(f"There is no setting or method '{pattern}'. {near}")
    return [*method, *found]


def _options_of(pattern: str, required: bool) -> list[Entry]:
    """The options of the method ``NAME``, or its one option ``NAME.OPTION``; without ``required``, only of a plugin's name.

    A method is searched in every plugin, which takes a while, so only if no setting has that name.
    """
    from kdengine.config.catalogue import entries_of
    from kdengine.errors import PluginError
    from kdengine.plugins.registry import Registry

    registry, (name, _, option) = Registry(), pattern.partition(".")
    if not required and pattern not in {plugin.name for plugin in registry.plugins}:
        return []
    try:
        methods = registry.methods(name)
    except PluginError:
        return []
    listed = [
        entry for method in methods for entry in entries_of(method.Options, f"{method.name}.", f"Options of {method.name}")
    ]
    return [entry for entry in listed if option in entry.name.rpartition(".")[2]]
