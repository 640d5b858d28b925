"""Grid search: each combination of option values becomes a lane of a comparison."""

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
"""Upper limit on the combinations in one sweep; each is a run with its own folder."""


def parse_axis(text: str) -> Axis:
    """Parse ``"st.alpha=0.1,0.5"`` into an axis.

    Raises:
        SettingsError: the option or its values are missing, or a value is repeated.
    """
    name, sign, values = text.partition("=")
    choices = tuple(value for value in split_names(values) if value)
    if not sign or "." not in name.strip(". ") or not choices:
        raise SettingsError(f"'{text}' is not a grid. Write METHOD.OPTION=VALUE,VALUE or train.OPTION=VALUE,VALUE.")
    if len(set(choices)) < len(choices):
        raise SettingsError(f"The grid '{text}' repeats a value. Give each value once.")
    return Axis(name.strip(), choices)


def cells(plugins: Sequence[str], axes: Sequence[Axis]) -> list[LaneSpec]:
    """One lane for each combination of values; the last axis varies fastest.

    Raises:
        SettingsError: there is no axis, two axes share a name, or there are too many combinations.
    """
    if not axes:
        raise SettingsError("No grid was given. Write --grid METHOD.OPTION=VALUE,VALUE.")
    if len({axis.name for axis in axes}) < len(axes):
        raise SettingsError("Two grids vary the same option. Put all of its values in one --grid.")
    count = math.prod(len(axis.values) for axis in axes)
    if count > MOST:
        raise SettingsError(f"The grids have {count} combinations, but a sweep allows at most {MOST}. Give fewer values.")
    return [_cell(plugins, axes, values) for values in itertools.product(*(axis.values for axis in axes))]


def _cell(plugins: Sequence[str], axes: Sequence[Axis], values: Sequence[str]) -> LaneSpec:
    options: dict[str, dict[str, Any]] = {}
    for axis, value in zip(axes, values, strict=True):
        (method, setting), *_ = parse_assignment(f"{axis.name}={value}").items()
        options = merge(options, {method: setting})
    train = options.pop("train", {})
    return LaneSpec(label_of_cell(axes, values), list(plugins), options, train)
