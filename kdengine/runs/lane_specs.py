"""The lanes of a comparison: what each is called, its methods, and what it does otherwise than the others."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kdengine.config.settings import InputSettings, Settings, TrainSettings
from kdengine.config.values import merge
from kdengine.errors import SettingsError
from kdengine.methods.distiller import Distiller
from kdengine.plugins.registry import Registry
from kdengine.plugins.selection import belongs_to, choose_distillers, label_of, names_of
from kdengine.storage.names import PLAIN

__all__ = ["LaneSpec", "lane_specs", "name_of", "noted", "with_plain"]


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

    def settings_in(self, settings: Settings, registry: Registry) -> Settings:
        """The settings of the lane as a run of its own.

        Args:
            settings: of the whole comparison.
            registry: finds methods.
        """
        used = names_of(self.plugins, registry)
        given = {key: value for key, value in settings.options.items() if belongs_to(key, used)}
        methods = tuple(name_of(plugin) for plugin in self.plugins)
        train = TrainSettings.checked({**settings.train.model_dump(), **self.train}, owner="train")
        changes: dict[str, Any] = {"methods": methods, "options": merge(given, self.options), "train": train}
        if not methods:
            changes |= {"teacher": None, "teacher_weights": None, "teacher_train": {}, "teacher_input": InputSettings()}
        return settings.model_copy(update=changes)


def lane_specs(
    methods: Iterable[str | LaneSpec] | Mapping[str, Sequence[str | Distiller]], registry: Registry
) -> list[LaneSpec]:
    """The lanes that are named: ``fitnet+st`` is a lane of two methods, ``plain`` one of none.

    Args:
        methods: names, specs, or label -> methods.
        registry: finds methods.

    Raises:
        PluginError: there is no such method.
    """
    if isinstance(methods, Mapping):
        return [LaneSpec(label, plugins) for label, plugins in methods.items()]
    named = [methods] if isinstance(methods, str) else methods
    return [item if isinstance(item, LaneSpec) else _named(item, registry) for item in named]


def _named(name: str, registry: Registry) -> LaneSpec:
    plugins = [part for part in name.split("+") if part != PLAIN]
    return LaneSpec(label_of(plugins, registry), plugins)


def with_plain(lanes: Sequence[LaneSpec]) -> list[LaneSpec]:
    """The lanes, preceded by the student without a method where that is missing.

    Raises:
        SettingsError: two have one label, or one cannot be the name of a folder.
    """
    every = list(lanes) if any(not lane.plugins for lane in lanes) else [LaneSpec(PLAIN, ()), *lanes]
    labels = [lane.label for lane in every]
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


def noted(lane: LaneSpec, options: Mapping[str, Mapping[str, Any]], registry: Registry) -> dict[str, Any]:
    """A lane spec as plain data; methods that came as objects are named, with all of their options.

    Args:
        lane: the lane.
        options: of its methods that were named.
        registry: finds those.
    """
    plain = {**vars(lane), "plugins": [name_of(plugin) for plugin in lane.plugins]}
    if not any(isinstance(plugin, Distiller) for plugin in lane.plugins):
        return plain
    distillers = choose_distillers(copy.deepcopy(list(lane.plugins)), options, registry)
    return {
        **plain,
        "options": {key: item.options.model_dump(mode="json", exclude_none=True) for key, item in distillers.items()},
    }
