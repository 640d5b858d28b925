"""What a run chose and what it measured, as flat numbers and words, for observers that log them elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdengine.plugins.run_view import RunView

__all__ = ["epoch_numbers", "run_choices"]

PLACE = ("epoch", "phase_epoch", "chain_step")
"""Numbers of a row that say which epoch it is, not what was measured."""
SPLITS = ("train", "val", "test")


def epoch_numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row of ``metrics.jsonl`` by tag: ``terms/rkd.angle``, ``top1/test`` (its ``test_top1``), ``lr``.

    Args:
        record: the row, as the hook ``kdengine_after_epoch`` receives it.
    """
    tagged = {f"terms/{name}": value for name, value in record["terms"].items()}
    for name, value in record.items():
        if isinstance(value, (int, float)) and name not in PLACE:
            split, _, measure = name.partition("_")
            tagged[f"{measure}/{split}" if split in SPLITS else name] = value
    return tagged


def run_choices(run: RunView) -> dict[str, float | str]:
    """The hyperparameters of a run: networks, data, seed, and every option of its training and its methods.

    Args:
        run: the run.
    """
    settings = run.settings.model_dump(mode="json", exclude_none=True)
    chosen: dict[str, Any] = {
        "method": run.lane.name,
        **{name: settings[name] for name in ("student", "teacher", "data", "seed") if name in settings},
    }
    for section, options in {"train": settings["train"], **settings["options"]}.items():
        chosen.update({f"{section}.{name}": value for name, value in options.items()})
    return {name: _plain(value) for name, value in chosen.items()}


def _plain(value: Any) -> float | str:
    """A setting as a number or text, which every logger accepts; lists are joined with commas."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return value if isinstance(value, (int, float)) else str(value)
