"""The sections of a page on settings, options of the methods, versions and hardware: what runs share, and what differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdengine.config.values import flat
from kdengine.report.differences import differing
from kdengine.report.markup import shared_list, table, tag
from kdengine.report.pastrun import PastRun
from kdengine.report.series import Series

__all__ = ["settings_section"]

MACHINE = ("device_name", "device", "precision", "threads", "processes", "python", "platform", "versions", "git_commit")


def settings_section(series: Sequence[Series], runs: Sequence[PastRun]) -> str:
    """HTML about some runs.

    Args:
        series: the runs as lines, which label them.
        runs: the same in their order.
    """
    named = {id(run): one.label for one in series for run in one.runs}
    labels = [named[id(run)] for run in runs]
    options = [(one.label, _options(one.runs[0])) for one in series if one.role == "method"]
    return (
        f"<h2>Settings</h2>\n{_compared(list(map(_settings, runs)), labels)}"
        + (f"<h2>Options of the methods</h2>\n{table(('method', 'options'), options)}" if options else "")
        + f"<h2>Versions and hardware</h2>\n{_compared(list(map(_machine, runs)), labels)}"
    )


def _compared(facts: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> str:
    other = differing(facts)
    shared = {name: value for name, value in facts[0].items() if name not in other and value is not None}
    rows = [(name, value, who) for name in other for value, who in _who(facts, labels, name)]
    unlike = tag("h3", "Different") + table(("name", "value", "in"), rows) if rows else ""
    return (tag("h3", "The same in all runs") if rows else "") + shared_list(shared) + unlike


def _who(facts: Sequence[Mapping[str, Any]], labels: Sequence[str], name: str) -> list[tuple[str, str]]:
    """Every value of a name with the labels of the runs that have it."""
    having: dict[str, dict[str, None]] = {}
    for item, label in zip(facts, labels, strict=True):
        having.setdefault(_word(item.get(name)), {})[label] = None
    everyone = len(set(labels))
    return [(value, ", ".join(who) if len(who) < everyone else "all") for value, who in having.items()]


def _settings(run: PastRun) -> dict[str, Any]:
    settings = flat(run.settings.model_dump(mode="json", exclude={"methods", "options"}))
    given = {name: value for name, value in settings.items() if value is not None or "_input." not in name}
    known = ("num_classes", "input_size", "train_images", "test_images", "fingerprint")
    return given | {f"data.{name}": run.data[name] for name in known if name in run.data}


def _options(run: PastRun) -> str:
    """``alpha = 0.9, temperature = 4.0``; with several methods, each option is prefixed with its method."""
    options = run.settings.options
    named = flat(options) if len(options) > 1 else next(iter(options.values()), {})
    return ", ".join(f"{name} = {_word(value)}" for name, value in named.items())


def _machine(run: PastRun) -> dict[str, Any]:
    return flat({name: run.manifest[name] for name in MACHINE if name in run.manifest})


def _word(value: Any) -> str:
    """A value as the command line writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return "not set" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)
