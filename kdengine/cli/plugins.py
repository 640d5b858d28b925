"""``kdengine plugins``: the installed plugins, and what they offer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from kdengine.cli.options import as_json
from kdengine.errors import PluginError

if TYPE_CHECKING:
    from kdengine.plugins.discovery import Composition
    from kdengine.plugins.registry import Registry

__all__ = ["command"]


@click.group("plugins", invoke_without_command=True)
@as_json
@click.option("--check", is_flag=True, help="Exit with status 2 if an installed plugin is broken or shadowed.")
@click.pass_context
def command(context: click.Context, as_json: bool, check: bool) -> None:
    """List the installed plugins, or show one method."""
    if context.invoked_subcommand:
        return
    registry = _loaded()
    if as_json:
        click.echo(json.dumps(_as_data(registry), default=str))
    else:
        _print(registry)
    unusable = [plugin for plugin in registry.plugins if plugin.status in ("broken", "incompatible", "shadowed")]
    if check and unusable:
        raise click.exceptions.Exit(2)


@command.command("show")
@click.argument("name")
@as_json
def show(name: str, as_json: bool) -> None:
    """Show a method: its source, taps, presets, and options with their defaults."""
    from kdengine.plugins.registry import Registry

    methods = [method.describe() for method in Registry().methods(name)]
    if as_json:
        click.echo(json.dumps(methods[0] if len(methods) == 1 else methods, default=str))
        return
    for method in methods:
        _print_method(method)
    if not methods:
        click.echo(f"{name} is not a method: it observes runs that select it with --plugin {name}.")


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
        unusable = {"name": name, "category": "", "summary": f"Not usable: {error}", "source": composition.source}
        return {**unusable, "methods": list(composition.methods), "options": {}}
    return {
        "name": name,
        "category": parts[0]["category"],
        "summary": composition.summary or "Used together: " + ", ".join(part["name"] for part in parts),
        "source": composition.source or "; ".join(part["source"] for part in parts),
        "methods": [part["name"] for part in parts],
        "options": {f"{part['name']}.{key}": value for part in parts for key, value in part["options"].items()},
    }


def _print(registry: Registry) -> None:
    from kdengine.cli.tables import print_table

    rows = [
        [plugin.name, plugin.distribution, plugin.version, plugin.status, plugin.reason or _offers(plugin)]
        for plugin in registry.plugins
    ]
    print_table(["plugin", "distribution", "version", "status", "offers"], rows)
    click.echo("\n'kdengine plugins show NAME' shows a method and its options.")


def _offers(plugin: Any) -> str:
    from kdengine.plugins.adapters import forms_of

    methods = [f"{name} ({method.category})" for name, method in sorted(plugin.methods.items())]
    compositions = [f"{name} = {' + '.join(parts.methods)}" for name, parts in plugin.compositions.items()]
    networks = [f"{len(plugin.models)} networks"] if plugin.models else []
    recipes = [f"{sum(len(list(folder.glob('*.toml'))) for folder in plugin.recipes)} recipes"] if plugin.recipes else []
    return ", ".join([*methods, *compositions, *forms_of([plugin]), *networks, *recipes])


def _print_method(method: Mapping[str, Any]) -> None:
    from kdengine.cli.tables import print_table

    click.echo(f"{method['name']} ({method['category']}): {method['summary']}")
    click.echo(f"Source: {method['source']}" if method["source"] else "Source: not given")
    click.echo(f"Taps: {', '.join(method['taps']) or 'none'}")
    for name, values in method["presets"].items():
        click.echo(f"Preset {name}: {', '.join(f'{key}={value}' for key, value in values.items())}")
    click.echo()
    rows = [
        [f"-o {method['name']}.{name}=", json.dumps(option["default"], default=str), option["type"], option["help"]]
        for name, option in method["options"].items()
    ]
    print_table(["option", "default", "type", "meaning"], rows)
