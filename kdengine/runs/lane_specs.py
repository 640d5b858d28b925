"""The lanes of a comparison: what each is called, its methods, and what it does otherwise than the others."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kdengine.errors import SettingsError
from kdengine.methods.distiller import Distiller
from kdengine.plugins.registry import Registry
from kdengine.plugins.selection import choose_distillers, label_of
from kdengine.storage.names import PLAIN

__all__ = ["LaneSpec", "lane_specs_of", "name_of", "noted", "with_plain"]


@dataclass(frozen=True)
class LaneSpec:
    """One lane of a comparison, in every trial.

    Attributes:
        label: what tables and folders call it.
        plugins: its methods, by name or as objects; none for plain training.
        options: method -> options, over those of the whole comparison.
        train: training settings that this lane has otherwise; not those that all lanes share, such as the batch size.
    """

    label: str
    plugins: Sequence[str | Distiller]
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)


def lane_specs_of(names: Iterable[str], registry: Registry) -> list[LaneSpec]:
    """A lane for each name; ``fitnet+st`` is a lane of two methods, ``plain`` one of none.

    Raises:
        PluginError: there is no such method.
    """
    parts = [[part for part in name.split("+") if part != PLAIN] for name in names]
    return [LaneSpec(label_of(plugins, registry), plugins) for plugins in parts]


def with_plain(entries: Sequence[LaneSpec]) -> list[LaneSpec]:
    """The entries, the student without a method before them where it is missing.

    Raises:
        SettingsError: two have one label, or one cannot be the name of a folder.
    """
    every = list(entries) if any(not entry.plugins for entry in entries) else [LaneSpec(PLAIN, ()), *entries]
    labels = [entry.label for entry in every]
    unfit = [label for label in labels if not isinstance(label, str) or label in ("", ".", "..") or set(label) & set("/\\\0")]
    if unfit:
        raise SettingsError(f"A label names a folder of its own, without a '/': {unfit[0]!r} cannot be one.")
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise SettingsError(f"Named twice: {', '.join(twice)}. Give every lane a label of its own.")
    return every


def name_of(plugin: str | Distiller) -> str:
    """What a method is called in settings and folders."""
    return plugin.name if isinstance(plugin, Distiller) else plugin


def noted(entry: LaneSpec, options: Mapping[str, Mapping[str, Any]], registry: Registry) -> dict[str, Any]:
    """An entry as plain data; methods that came as objects are named, with all of their options.

    Args:
        entry: the lane.
        options: of its methods that were named.
        registry: finds those.
    """
    plain = {**vars(entry), "plugins": [name_of(plugin) for plugin in entry.plugins]}
    if not any(isinstance(plugin, Distiller) for plugin in entry.plugins):
        return plain
    distillers = choose_distillers(copy.deepcopy(list(entry.plugins)), options, registry)
    return {
        **plain,
        "options": {key: item.options.model_dump(mode="json", exclude_none=True) for key, item in distillers.items()},
    }
