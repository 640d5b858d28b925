"""Sweeps: every combination of some options as a lane of a comparison."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

from kdengine.config.values import merge, parse_assignment, split_names
from kdengine.errors import SettingsError
from kdengine.runs.lane_specs import LaneSpec
from kdengine.storage.axis import Axis, label_of_cell

__all__ = ["cells", "parse_axis"]

MOST = 10_000
"""Combinations that one sweep may have; each is a run with a folder of its own."""


def parse_axis(text: str) -> Axis:
    """``"st.alpha=0.1,0.5"`` as an axis.

    Raises:
        SettingsError: there is no option or no value.
    """
    name, sign, values = text.partition("=")
    found = tuple(value for value in split_names(values) if value)
    if not sign or "." not in name.strip(". ") or not found:
        raise SettingsError(f"'{text}' is not a grid. Write METHOD.OPTION=VALUE,VALUE or train.OPTION=VALUE,VALUE.")
    if len(set(found)) < len(found):
        raise SettingsError(f"'{text}' has a value twice.")
    return Axis(name.strip(), found)


def cells(plugins: Sequence[str], axes: Sequence[Axis]) -> list[LaneSpec]:
    """A lane for every combination of the values, the last axis changing fastest.

    Raises:
        SettingsError: there is no axis, two have one name, or there are too many combinations.
    """
    if not axes:
        raise SettingsError("There is no grid. Write --grid METHOD.OPTION=VALUE,VALUE.")
    if len({axis.name for axis in axes}) < len(axes):
        raise SettingsError("Two grids are for the same option. Give all its values in one.")
    count = math.prod(len(axis.values) for axis in axes)
    if count > MOST:
        raise SettingsError(f"The grids have {count} combinations, and {MOST} at most can be lanes. Give fewer values.")
    return [_cell(plugins, axes, values) for values in itertools.product(*(axis.values for axis in axes))]


def _cell(plugins: Sequence[str], axes: Sequence[Axis], values: Sequence[str]) -> LaneSpec:
    options: dict[str, dict[str, Any]] = {}
    for axis, value in zip(axes, values, strict=True):
        (method, setting), *_ = parse_assignment(f"{axis.name}={value}").items()
        options = merge(options, {method: setting})
    train = options.pop("train", {})
    return LaneSpec(label_of_cell(axes, values), list(plugins), options, train)
