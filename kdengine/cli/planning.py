"""Printing the plan of a run, and the units of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from kdengine.errors import counted

__all__ = ["print_plan", "print_seeds", "print_units"]


def print_plan(plan: Mapping[str, Any]) -> None:
    """Print networks, connectors, phases with their taps, and memory, as tables."""
    from kdengine.cli.tables import print_table
    from kdengine.runs.store_forecast import in_words
    from kdengine.runs.teachers import is_teacher

    roles = [*(role for role in plan if is_teacher(role)), "student"]
    networks = [_network_row(role, plan[role]) for role in roles]
    methods = [row for method in plan["methods"] for row in _method_rows(method)]
    print_table(["", "name", "parameters", "input"], [*networks, *methods])
    for role in roles:
        if "mean" in plan[role]["input"]:
            click.echo(
                f"The {role} receives images of {_normalisation(plan[role]['input'])}, not {_normalisation(plan['data'])}"
            )
    for training in plan["training"].values():
        click.echo(f"{training['network']} is trained with {training['summary']}")
    for phase in plan["phases"]:
        name = f"{phase['name']} of {phase['network']}" if "network" in phase else phase["name"]
        click.echo(f"\nPhase {name}: {counted(phase['epochs'], 'epoch')}, task weight {phase['task_weight']:g}")
        for side, forward in phase["forwards"].items():
            click.echo(f"  {'the ' if side in ('student', 'teacher') else ''}{side} runs {_depth(forward)}")
        if phase["taps"]:
            heads = ["method", "student", "where", "shape", "", "teacher", "where", "shape", ""]
            several = any("of" in tap for tap in phase["taps"])
            print_table([*heads, *(["of"] if several else [])], [_tap_row(tap, several) for tap in phase["taps"]])
    memory = plan["memory"]
    lane, taps = _size(memory["lane"]), _size(memory["taps_per_image"])
    click.echo(f"\nMemory: {lane} for networks and connectors with their training state; taps hold up to {taps} per image")
    if "teacher_store" in plan:
        click.echo(in_words(plan["teacher_store"]))


def print_units(units: Sequence[Mapping[str, Any]], launcher: str) -> None:
    """Print what a launcher would carry, as a table with a line for each unit."""
    from kdengine.cli.tables import print_table

    columns = ("unit", "lanes", "teacher passes", "threads", "GPUs", "memory")
    rows = [
        [
            unit["unit"],
            ", ".join(unit["lanes"]),
            str(int(unit["teacher_pass"])),
            *_resources(unit),
            "" if unit["memory"] is None else _size(unit["memory"]),
        ]
        for unit in units
    ]
    click.echo()
    print_table(columns, rows)
    passes = sum(unit["teacher_pass"] for unit in units)
    click.echo(f"{len(units)} units by the launcher '{launcher}', in {passes} of which the teacher runs.")


def print_seeds(units: Sequence[Mapping[str, Any]], launcher: str) -> None:
    """Print which seeds of a teacher store a launcher would carry, as a table with a line for each unit."""
    from kdengine.cli.tables import print_table

    rows = [[unit["unit"], str(unit["seed"]), *_resources(unit)] for unit in units]
    click.echo()
    print_table(("unit", "seed", "threads", "GPUs"), rows)
    click.echo(f"{len(units)} units by the launcher '{launcher}'. Nothing was filled.")


def _resources(unit: Mapping[str, Any]) -> list[str]:
    """Threads and GPUs of a unit."""
    return [str(unit["threads"]), f"{unit['gpus']:g}"]


def _network_row(role: str, network: Mapping[str, Any]) -> list[str]:
    return [role, network["name"], f"{network['parameters']:,}", " x ".join(map(str, network["input"]["size"]))]


def _normalisation(images: Mapping[str, Any]) -> str:
    """``mean 0.5, 0.5, 0.5 and std 0.25, 0.25, 0.25``."""
    mean, std = (", ".join(f"{value:g}" for value in images[name]) for name in ("mean", "std"))
    return f"mean {mean} and std {std}"


def _method_rows(method: Mapping[str, Any]) -> list[list[str]]:
    rows = [["method", method["name"], f"{method['connector_parameters']:,}", ""]]
    named = [
        [f"  {part['kind']}", f"{method['name']}.{part['name']}", f"{part['parameters']:,}", ""]
        for part in method["connectors"]
    ]
    return rows + (named if len(named) > 1 else [])


def _depth(forward: Mapping[str, Any]) -> str:
    """``up to layer2: 0.41 of its operations``."""
    if forward["until"] is None:
        return "whole"
    share = f": {forward['flops'] / forward['whole_flops']:.2f} of its operations" if forward["whole_flops"] else ""
    return f"up to {forward['until']}{share}"


def _tap_row(tap: Mapping[str, Any], several: bool) -> list[Any]:
    """One tap on both sides; with several teachers, of which."""
    sides = (
        [tap[f"{side}{part}"] for part in ("", "_place", "_shape")] + [_remark(tap, side)] for side in ("student", "teacher")
    )
    return [tap["method"], *(cell for side in sides for cell in side), *([tap.get("of", "")] if several else [])]


def _remark(tap: Mapping[str, Any], side: str) -> str:
    """The layout of the tensor in the network, if the tap rearranges it, and whether the tap clones it."""
    layout = {"as_is": "", "vector": "pooled"}.get(tap[f"{side}_layout"], f"from {tap[f'{side}_layout']}")
    return ", ".join(filter(None, (layout, "cloned" if tap[f"{side}_cloned"] else "")))


def _size(count: int) -> str:
    return f"{count / 2**20:.2f} MiB"
