"""The parts of a README that follow from a method's declarations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kdengine.methods.distiller import Distiller

__all__ = ["missing_from", "options_table", "presets_table"]

INHERITED = {
    "weight": "Factor on all terms of the method; 0 switches it off altogether.",
    "taps": "Taps in place of these: `TAP`, or `STUDENT=TEACHER` where the sides differ.",
    "preset": "A named set of options; those given beside it win.",
}
"""What the options of every method mean."""


def options_table(method: type[Distiller]) -> str:
    """All options of a method with their defaults, as a table in Markdown."""
    facts = method.describe()
    rows = [f"{_beginning(method, name, option)}{_help(name, option)} |" for name, option in facts["options"].items()]
    return "\n".join(["| option | default | meaning |", "|---|---|---|", *rows])


def presets_table(method: type[Distiller]) -> str:
    """All presets of a method with their values, as a table in Markdown; empty if there are none."""
    if not method.presets:
        return ""
    rows = [f"| `{name}` | {_values(values)} |" for name, values in method.presets.items()]
    return "\n".join(["| `preset` | what it is |", "|---|---|", *rows])


def missing_from(readme: str, method: type[Distiller]) -> Iterator[str]:
    """What a README does not say of a method: an option with its default, a preset, or the source."""
    facts = method.describe()
    for name, option in facts["options"].items():
        beginning = _beginning(method, name, option)
        if beginning.strip() not in readme:
            yield f"the option '{name}' with its default, in a row that begins with: {beginning.strip()}"
    for name in method.presets:
        if f"| `{name}` |" not in readme:
            yield f"the preset '{name}', in a row that begins with: | `{name}` |"
    if "Source: " not in " ".join(readme.split()):
        yield "the source, as a line that begins with: Source:"


def _beginning(method: type[Distiller], name: str, option: Mapping[str, Any]) -> str:
    """How the row of an option begins."""
    default = tuple(method.taps) if name == "taps" else option["default"]
    return f"| `{name}` | {_shown(default)} | "


def _help(name: str, option: Mapping[str, Any]) -> str:
    inherited = Distiller.Options.model_fields.get(name)
    own = inherited is None or " ".join((inherited.description or "").split()) != option["help"]
    text: str = option["help"] if own else INHERITED[name]
    return text.replace("|", r"\|")


def _shown(default: object) -> str:
    """A default as TOML writes it, a list without its brackets."""
    if isinstance(default, bool):
        default = str(default).lower()
    if isinstance(default, tuple | list):
        default = ", ".join(map(str, default))
    return "none" if default in (None, "") else f"`{default}`"


def _values(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in values.items())
