"""``kdengine plugins``: the installed plugins, and what they offer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from kdengine.cli.check import command as check_command
from kdengine.cli.options import as_json
from kdengine.errors import PluginError, did_you_mean

if TYPE_CHECKING:
    from kdengine.launchers.launcher import Launcher
    from kdengine.plugins.discovery import Composition
    from kdengine.plugins.registry import Registry

__all__ = ["command"]


@click.group("plugins", invoke_without_command=True)
@as_json
@click.option("--group", metavar="NAME", help="List the methods of a group, as 'compare --methods NAME' takes them.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print all methods as a page in Markdown.")
@click.option("--check", is_flag=True, help="Exit with status 2 if an installed plugin is broken or shadowed.")
@click.pass_context
def command(context: click.Context, as_json: bool, group: str | None, as_markdown: bool, check: bool) -> None:
    """List the installed plugins or the methods of a group; show a method, or check a plugin of one's own."""
    from kdengine.cli.catalogue import markdown

    given = {"--json": as_json, "--group": group is not None, "--markdown": as_markdown, "--check": check}
    names = [name for name, was_given in given.items() if was_given]
    if context.invoked_subcommand:
        _refuse_before(context.invoked_subcommand, names)
        return
    if as_markdown and (as_json or group is not None):
        others = " and ".join(name for name in names if name in ("--json", "--group"))
        raise click.UsageError(f"--markdown prints a page of all methods: leave out {others}, or --markdown.")
    registry = _loaded()
    if group is not None:
        _print_group(registry, group, as_json)
    elif as_json:
        click.echo(json.dumps(_as_data(registry), default=str))
    elif as_markdown:
        click.echo(markdown(_as_data(registry)["methods"]), nl=False)
    else:
        _print(registry)
    unusable = [plugin for plugin in registry.plugins if plugin.status in ("broken", "incompatible", "shadowed")]
    if check and unusable:
        raise click.exceptions.Exit(2)


@command.command("show")
@click.argument("name")
@as_json
def show(name: str, as_json: bool) -> None:
    """Show a method: its source, taps, presets, and options with their defaults; or a launcher."""
    from kdengine.launchers import BUILT_IN
    from kdengine.plugins.registry import Registry

    registry = Registry()
    launcher: type[Launcher] | None = BUILT_IN.get(name)
    methods = [] if launcher else [method.describe() for method in registry.methods(name)]
    launcher = launcher or next((plugin.launchers[name] for plugin in registry.plugins if name in plugin.launchers), None)
    if launcher is not None and not methods:
        _show_launcher(launcher.describe(), as_json)
        return
    if as_json:
        click.echo(json.dumps(methods[0] if len(methods) == 1 else methods, default=str))
        return
    for method in methods:
        _print_method(method)
    if not methods:
        click.echo(f"{name} is not a method: it observes runs that select it with --plugin {name}.")


command.add_command(check_command)


def _refuse_before(subcommand: str, names: Sequence[str]) -> None:
    """Refuse options of the list of plugins that were given before a subcommand, which does not read them.

    Raises:
        UsageError: there are some.
    """
    if names:
        raise click.UsageError(
            f"{', '.join(names)} before '{subcommand}' would change the list of plugins, which '{subcommand}' does not print: "
            f"leave out all options before it. For JSON, write --json after it: kdengine plugins {subcommand} NAME --json."
        )


def _loaded() -> Registry:
    from kdengine.plugins.registry import Registry

    registry = Registry()
    registry.load_all()
    return registry


def _as_data(registry: Registry) -> dict[str, Any]:
    plugins = [
        {
            "name": plugin.name,
            "distribution": plugin.distribution,
            "version": plugin.version,
            "status": plugin.status,
            "reason": plugin.reason,
            "methods": sorted(plugin.methods),
            "compositions": {name: list(part.methods) for name, part in plugin.compositions.items()},
            "adapters": {name: adapter.form for name, adapter in sorted(plugin.adapters.items())},
            "models": sorted(plugin.models),
            "launchers": [launcher.describe() for _, launcher in sorted(plugin.launchers.items())],
        }
        for plugin in registry.plugins
    ]
    methods = [
        {**facts, "distribution": plugin.distribution, "version": plugin.version}
        for plugin in registry.plugins
        for facts in [
            *(method.describe() for _, method in sorted(plugin.methods.items())),
            *(_composition(registry, name, parts) for name, parts in sorted(plugin.compositions.items())),
        ]
    ]
    return {"plugins": plugins, "methods": methods}


def _composition(registry: Registry, name: str, composition: Composition) -> dict[str, Any]:
    """A composition described like a method; its options are those of its methods, prefixed with their names."""
    try:
        parts = [method.describe() for method in registry.methods(name)]
    except PluginError as error:  # it names a method that is not installed
        unusable = {"name": name, "category": "", "groups": [], "summary": f"Not usable: {error}", "source": composition.source}
        return {**unusable, "methods": list(composition.methods), "needs": [], "options": {}}
    return {
        "name": name,
        "category": parts[0]["category"],
        "groups": [],
        "summary": composition.summary or "Used together: " + ", ".join(part["name"] for part in parts),
        "source": composition.source or "; ".join(part["source"] for part in parts),
        "methods": [part["name"] for part in parts],
        "needs": list(dict.fromkeys(need for part in parts for need in part["needs"])),
        "options": {f"{part['name']}.{key}": value for part in parts for key, value in part["options"].items()},
    }


def _print_group(registry: Registry, group: str, as_json: bool) -> None:
    """Print the methods of a group in the order in which they are compared."""
    from kdengine.cli.tables import print_table
    from kdengine.plugins.groups import groups

    known = groups(registry)
    if group not in known:
        near = did_you_mean(group, known) or f"Groups: {', '.join(known)}."
        raise PluginError(f"There is no group '{group}'. {near}")
    methods = [registry.methods(name)[0].describe() for name in known[group]]
    if as_json:
        click.echo(json.dumps(methods, default=str))
        return
    rows = [[each["name"], each["category"], ", ".join(each["groups"]), each["summary"]] for each in methods]
    print_table(["method", "category", "groups", "summary"], rows)


def _print(registry: Registry) -> None:
    from kdengine.cli.tables import print_table
    from kdengine.launchers import BUILT_IN
    from kdengine.plugins.groups import groups

    rows = [
        [plugin.name, plugin.distribution, plugin.version, plugin.status, plugin.reason or _offers(plugin)]
        for plugin in registry.plugins
    ]
    print_table(["plugin", "distribution", "version", "status", "offers"], rows)
    sizes = [f"{name} ({len(methods)})" for name, methods in groups(registry).items()]
    click.echo(f"\nGroups: {', '.join(sizes)}; --group NAME lists the methods of one.")
    names = [*BUILT_IN, *registry.offered("launchers")]
    click.echo(f"Launchers, for --on: {', '.join(names)}.")
    click.echo("'kdengine plugins show NAME' shows a method or a launcher and its options.")


def _offers(plugin: Any) -> str:
    from kdengine.plugins.adapters import forms_of

    methods = [f"{name} ({method.category})" for name, method in sorted(plugin.methods.items())]
    compositions = [f"{name} = {' + '.join(parts.methods)}" for name, parts in plugin.compositions.items()]
    networks = [f"{len(plugin.models)} networks"] if plugin.models else []
    launchers = [f"{name} (launcher)" for name in sorted(plugin.launchers)]
    recipes = [f"{sum(len(list(folder.glob('*.toml'))) for folder in plugin.recipes)} recipes"] if plugin.recipes else []
    return ", ".join([*methods, *compositions, *forms_of([plugin]), *networks, *launchers, *recipes])


def _show_launcher(launcher: Mapping[str, Any], as_json: bool) -> None:
    """Print a launcher with its options, or as JSON."""
    if as_json:
        click.echo(json.dumps(launcher, default=str))
        return
    click.echo(f"{launcher['name']} (launcher): {launcher['summary']}\n")
    _print_options(launcher)


def _print_method(method: Mapping[str, Any]) -> None:
    click.echo(f"{method['name']} ({method['category']}): {method['summary']}")
    click.echo(f"Source: {method['source']}" if method["source"] else "Source: not given")
    click.echo(f"Groups: {', '.join(method['groups']) or 'none'}")
    click.echo(f"Taps: {', '.join(method['taps']) or 'none'}")
    for name, values in method["presets"].items():
        click.echo(f"Preset {name}: {', '.join(f'{key}={value}' for key, value in values.items())}")
    click.echo()
    _print_options(method)


def _print_options(owner: Mapping[str, Any]) -> None:
    from kdengine.cli.tables import print_table

    rows = [
        [f"-o {owner['name']}.{name}=", json.dumps(option["default"], default=str), option["type"], option["help"]]
        for name, option in owner["options"].items()
    ]
    print_table(["option", "default", "type", "meaning"], rows)
