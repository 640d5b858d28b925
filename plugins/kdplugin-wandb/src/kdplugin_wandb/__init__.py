"""Weights & Biases: every run, with its settings, numbers, pictures and tables. An observer, not a method."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kdengine import PluginError, RunInfo, RunLog, Tracking

if find_spec("wandb") is None:  # it is imported when a run is logged, for that takes a while
    raise PluginError("Weights & Biases cannot be imported. Install it: pip install wandb")

__all__ = ["WandbLog", "tracking"]

PROJECT = "kdengine"
"""The project, unless ``WANDB_PROJECT`` names another."""


class WandbLog(RunLog):
    """A run of Weights & Biases; all else is configured by its own environment variables.

    Args:
        info: the run.
    """

    def __init__(self, info: RunInfo) -> None:
        import wandb

        again: dict[str, Any] = {} if info.id is None else {"id": info.id, "resume": "allow"}
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            name=info.name,
            group=info.group,
            job_type=info.kind,
            notes=info.title,
            config=_nested(info.choices),
            allow_val_change=True,
            reinit="create_new",  # the lanes of a comparison are logged side by side
            settings=wandb.Settings(console="off"),  # else it would take hold of the streams that progress is shown on
            **again,
        )
        self._axes: dict[str, str] = {}

    @property
    def id(self) -> str:
        """The run id."""
        return str(self._run.id)

    def epoch(self, numbers: Mapping[str, float], epoch: int, step: int) -> None:
        """Log an epoch; its numbers are drawn over epochs."""
        self._log(numbers, "epoch", epoch)

    def step(self, numbers: Mapping[str, float], step: int) -> None:
        """Log the terms of a step; they are drawn over steps."""
        self._log(numbers, "step", step)

    def image(self, name: str, file: Path) -> None:
        """Log a picture as an image."""
        import wandb

        self._run.log({name: wandb.Image(str(file))})

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[str | float | None]]) -> None:
        """Log a table."""
        import wandb

        self._run.log({name: wandb.Table(columns=list(columns), data=[list(row) for row in rows], allow_mixed_types=True)})

    def end(self, state: str, summary: Mapping[str, float | str]) -> None:
        """Set the summary, and finish the run; one that can be resumed counts as preempted."""
        self._run.summary.update({"state": state, **{f"result/{name}": value for name, value in summary.items()}})
        if state == "interrupted":
            self._run.mark_preempting()
        self._run.finish(exit_code=0 if state == "finished" else 1)

    def _log(self, numbers: Mapping[str, float], axis: str, place: int) -> None:
        named = {name.replace(".", "/"): value for name, value in numbers.items()}  # a dot would mean a part of something
        for name in named:
            if self._axes.get(name) != axis:
                self._run.define_metric(name, step_metric=axis)
                self._axes[name] = axis
        self._run.log({axis: place, **named})


def _nested(choices: Mapping[str, float | str]) -> dict[str, Any]:
    """Settings by section: ``{"train": {"lr": 0.1}}`` of ``{"train.lr": 0.1}``."""
    nested: dict[str, Any] = {}
    for name, value in choices.items():
        section, _, option = name.partition(".")
        if option:
            nested.setdefault(section, {})[option] = value
        else:
            nested[section] = value
    return nested


tracking = Tracking("wandb", WandbLog)
kdengine_before_fit = tracking.kdengine_before_fit
kdengine_after_step = tracking.kdengine_after_step
kdengine_after_epoch = tracking.kdengine_after_epoch
kdengine_after_fit = tracking.kdengine_after_fit
kdengine_on_error = tracking.kdengine_on_error
kdengine_after_comparison = tracking.kdengine_after_comparison
