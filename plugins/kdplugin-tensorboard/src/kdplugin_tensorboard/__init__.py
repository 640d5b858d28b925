"""TensorBoard: every epoch of every run, as event files in its run folder. An observer, not a method."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import Any

from kdengine import PluginError, Result, hookimpl

try:
    from torch.utils.tensorboard import SummaryWriter
    from torch.utils.tensorboard.summary import hparams
except ImportError as error:
    raise PluginError(f"TensorBoard cannot be imported ({error}). Install it: pip install tensorboard") from error

__all__ = ["choices", "scalars"]

FOLDER = "tensorboard"
PLACE = ("epoch", "phase_epoch", "chain_step")
"""Numbers of a row that say where it stands, and not what was measured."""
SPLITS = ("train", "val", "test")

_writers: dict[Any, SummaryWriter] = {}
"""Run folder -> the open log of its run; several runs may be in progress at the same time."""


@hookimpl
def kdengine_before_fit(run: Any) -> None:
    """Open the log; that of a resumed run goes on after the last epoch whose state was saved."""
    if not run.runtime.is_main:
        return
    folder, history = run.folder.path / FOLDER, run.lane.history
    # the last row is written again: a process may have been killed between saving its state and logging it
    missing = history[-1:] if folder.is_dir() else history
    _writers[run.folder] = SummaryWriter(str(folder), purge_step=len(history))
    for record in missing:
        _write(run, record)


@hookimpl
def kdengine_after_epoch(run: Any, record: Mapping[str, Any]) -> None:
    """Add the numbers of an epoch; they can be seen at once."""
    if run.folder in _writers:
        _write(run, record)


@hookimpl
def kdengine_after_fit(run: Any, result: Result) -> None:
    """Add what was chosen and what came of it, and close the log."""
    if run.folder not in _writers:
        return
    with closing(_writers.pop(run.folder)) as writer:
        for name in ("top1", "best_top1"):
            if getattr(result, name) is not None:
                writer.add_scalar(f"result/{name}", getattr(result, name), len(result.history))
        # without the description of the experiment: TensorBoard would show the options that the first run names, and no
        # others; without one it shows those of all runs
        _, start, end = hparams(choices(run), {})
        writer.file_writer.add_summary(start)
        writer.file_writer.add_summary(end)


@hookimpl
def kdengine_on_error(run: Any) -> None:
    """Close the log."""
    if run.folder in _writers:
        _writers.pop(run.folder).close()


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row of ``metrics.jsonl`` by tag: ``terms/rkd.angle``, ``top1/test`` (its ``test_top1``), ``lr``."""
    found = {f"terms/{name}": value for name, value in record["terms"].items()}
    for name, value in record.items():
        if isinstance(value, (int, float)) and name not in PLACE:
            split, _, measure = name.partition("_")
            found[f"{measure}/{split}" if split in SPLITS else name] = value
    return found


def choices(run: Any) -> dict[str, float | str]:
    """What tells a run from others: networks, data, seed, and all options of its training and its methods."""
    settings = run.settings.model_dump(mode="json", exclude_none=True)
    chosen = {
        "method": run.lane.name,
        **{name: settings[name] for name in ("student", "teacher", "data", "seed") if name in settings},
    }
    for section, options in {"train": settings["train"], **settings["options"]}.items():
        chosen.update({f"{section}.{name}": value for name, value in options.items()})
    return {name: _plain(value) for name, value in chosen.items()}


def _write(run: Any, record: Mapping[str, Any]) -> None:
    """Add a row, and before the first one of a phase its name."""
    writer, epoch = _writers[run.folder], record["epoch"]
    for tag, value in scalars(record).items():
        writer.add_scalar(tag, value, epoch)
    phases = [row for row in run.lane.history[:epoch] if row["phase_epoch"] == 1]
    writer.add_scalar("phase", len(phases), epoch)
    if record["phase_epoch"] == 1:
        of = f" of {record['network']}" if "network" in record else ""
        writer.add_text("phase", f"Phase {len(phases)} of {len(run.lane.phases)}: {record['phase']}{of}", epoch)
    writer.flush()


def _plain(value: Any) -> float | str:
    """A value of the settings as TensorBoard takes it: a number or text; a list with commas."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return value if isinstance(value, (int, float)) else str(value)
