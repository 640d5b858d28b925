"""The lanes of a comparison: label, methods, and settings that differ from the shared ones."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kdengine.config.settings import Settings, TrainSettings
from kdengine.config.values import merge
from kdengine.errors import SettingsError
from kdengine.methods.checks import views_of
from kdengine.methods.distiller import Distiller
from kdengine.plugins.groups import expanded
from kdengine.plugins.registry import Registry
from kdengine.plugins.selection import belongs_to, choose_distillers, label_of, names_of, plugins_given
from kdengine.runs.start import OF_BATCHES
from kdengine.storage.names import PLAIN

__all__ = [
    "LaneSpec",
    "Methods",
    "check_label",
    "check_lanes",
    "lane_specs",
    "name_of",
    "noted",
    "views_of_lanes",
    "with_plain",
]

SHARED = (*OF_BATCHES, "second_view", "precision", "channels_last", "fold_teacher", "device", "workers")
"""Training settings that all lanes must share, because they share batches, device and every forward of the teacher."""


@dataclass(frozen=True)
class LaneSpec:
    """One lane of a comparison, in every trial.

    Attributes:
        label: its name in tables and folders.
        plugins: its methods, by name or as objects; empty for plain training.
        options: method -> options; these override the options of the whole comparison.
        train: overrides of the training settings; settings that all lanes share, such as the batch size, are not allowed.
        student: label of the student that it trains, in a comparison of several; by default, each has such a lane.
    """

    label: str
    plugins: Sequence[str | Distiller]
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    student: str = ""

    def settings_in(self, settings: Settings, registry: Registry) -> Settings:
        """The settings of this lane as a standalone run.

        Args:
            settings: of the whole comparison, for the student of the lane.
            registry: finds methods.
        """
        used = names_of(self.plugins, registry)
        given = {key: value for key, value in settings.options.items() if belongs_to(key, used)}
        methods = tuple(name_of(plugin) for plugin in self.plugins)
        train = TrainSettings.checked({**settings.train.model_dump(), **self.train}, owner="train")
        changes: dict[str, Any] = {"methods": methods, "options": merge(given, self.options), "train": train}
        changed = settings.model_copy(update=changes)
        return changed if methods else changed.without_teacher()


Methods = Iterable[str | Distiller | LaneSpec] | Mapping[str, str | Distiller | Sequence[str | Distiller]]
"""What names the lanes of a comparison."""


def lane_specs(methods: Methods, registry: Registry) -> list[LaneSpec]:
    """Expand names into lanes: ``fitnet+st`` combines two methods, ``plain`` has none, and a group has a lane for each.

    What is named several times, as a member of a group or otherwise, gets one lane, where it is named first.

    Args:
        methods: names, separated by commas if they are one string, distillers, lane specs, or label -> methods.
        registry: finds methods.

    Raises:
        PluginError: there is no such method or group.
    """
    if isinstance(methods, Mapping):
        return [LaneSpec(label, _plugins(given, registry)) for label, given in methods.items()]
    given: Iterable[str | Distiller | LaneSpec]
    given = [name.strip() for name in methods.split(",")] if isinstance(methods, str) else methods
    lanes: dict[object, LaneSpec] = {}
    for item in given:
        if isinstance(item, LaneSpec):
            lanes[len(lanes)] = item
            continue
        if not isinstance(item, str):
            plugins = plugins_given(item)
            lanes[len(lanes)] = LaneSpec(label_of(plugins, registry), plugins)
            continue
        for name in expanded([item] if item else [], registry):
            lane = _named(name, registry)
            kinds = [kind for plugin in lane.plugins for kind in registry.methods(str(plugin))]
            lanes.setdefault((lane.label, *kinds), lane)
    return list(lanes.values())


def _plugins(given: str | Distiller | Sequence[str | Distiller], registry: Registry) -> Sequence[str | Distiller]:
    """The methods of a lane, of which there may be one alone."""
    return _named(given, registry).plugins if isinstance(given, str) else plugins_given(given)


def _named(name: str, registry: Registry) -> LaneSpec:
    plugins = [part for part in name.split("+") if part != PLAIN]
    return LaneSpec(label_of(plugins, registry), plugins)


def with_plain(lanes: Sequence[LaneSpec]) -> list[LaneSpec]:
    """Prepend a plain lane unless one is already present.

    Raises:
        SettingsError: two lanes share a label, or a label is not a valid folder name.
    """
    every = list(lanes) if any(not lane.plugins for lane in lanes) else [LaneSpec(PLAIN, ()), *lanes]
    labels = [lane.label for lane in every]
    for label in labels:
        check_label(label, "a lane")
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise SettingsError(f"Several lanes are called {', '.join(twice)}. Give every lane a label of its own.")
    return every


def check_label(label: object, owner: str) -> None:
    """Refuse a label that cannot name a folder.

    Args:
        label: what should be text.
        owner: what bears it, for the error.

    Raises:
        SettingsError: it is none.
    """
    if not isinstance(label, str) or label in ("", ".", "..") or set(label) & set("/\\\0"):
        raise SettingsError(
            f"{label!r} cannot be the label of {owner}: a label must be a valid folder name, without '/'. Choose another."
        )


def check_lanes(lanes: Sequence[LaneSpec], settings: Settings, registry: Registry) -> None:
    """Refuse options that no lane uses, settings that lanes cannot have for themselves, and invalid methods.

    Args:
        lanes: the lanes.
        settings: of the whole comparison.
        registry: finds methods.

    Raises:
        KDError: says what to change.
    """
    used = {name for lane in lanes for name in names_of(lane.plugins, registry)}
    unused = [key for key in settings.options if not belongs_to(key, used)]
    if unused:
        raise SettingsError(
            f"No lane uses the options of {', '.join(unused)}. Remove them, or add such a lane; those of a launcher need --on."
        )
    for lane in lanes:
        shared = [name for name in lane.train if name in SHARED]
        if shared:
            raise SettingsError(f"train.{shared[0]} must be the same in all lanes. Compare the values in separate runs.")
        choose_distillers(copy.deepcopy(list(lane.plugins)), lane.settings_in(settings, registry).options, registry)


def views_of_lanes(lanes: Sequence[LaneSpec], registry: Registry) -> int:
    """In how many views of the images any method of the lanes sees the teacher."""
    named = [registry.methods(plugin) if isinstance(plugin, str) else [plugin] for lane in lanes for plugin in lane.plugins]
    return max((views_of(method) for methods in named for method in methods), default=1)


def name_of(plugin: str | Distiller) -> str:
    """The name of a method in settings and folders."""
    return plugin.name if isinstance(plugin, Distiller) else plugin


def noted(lane: LaneSpec, options: Mapping[str, Mapping[str, Any]], registry: Registry) -> dict[str, Any]:
    """Convert a lane spec to plain data; methods passed as objects become names with all of their options.

    Args:
        lane: the lane.
        options: options of the methods given by name.
        registry: finds those methods.
    """
    plain = {**vars(lane), "plugins": [name_of(plugin) for plugin in lane.plugins]}
    if not any(isinstance(plugin, Distiller) for plugin in lane.plugins):
        return plain
    distillers = choose_distillers(copy.deepcopy(list(lane.plugins)), options, registry)
    return {
        **plain,
        "options": {key: item.options.model_dump(mode="json", exclude_none=True) for key, item in distillers.items()},
    }
