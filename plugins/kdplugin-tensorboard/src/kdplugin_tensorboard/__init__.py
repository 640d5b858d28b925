"""TensorBoard: every epoch of every run, as event files in its run folder. An observer, not a method."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from kdengine import PluginError, ResultView, RunView, epoch_numbers, hookimpl, run_choices

try:
    from torch.utils.tensorboard import SummaryWriter
    from torch.utils.tensorboard.summary import hparams
except ImportError as error:
    raise PluginError(f"TensorBoard cannot be imported ({error}). Install it: pip install tensorboard") from error

FOLDER = "tensorboard"

_writers: dict[Path, SummaryWriter] = {}
"""Run folder -> the open log of its run; several runs may be in progress at the same time."""


@hookimpl
def kdengine_before_fit(run: RunView) -> None:
    """Open the log; a resumed run appends to its own, after the last epoch whose state was saved."""
    if not run.runtime.is_main:
        return
    folder, history = run.folder.path / FOLDER, run.lane.history
    # rewrite the last row: the process may have been killed between saving its state and logging it
    missing = history[-1:] if folder.is_dir() else history
    _writers[run.folder.path] = SummaryWriter(str(folder), purge_step=len(history))
    for record in missing:
        _write(run, record)


@hookimpl
def kdengine_after_epoch(run: RunView, record: Mapping[str, Any]) -> None:
    """Log an epoch as soon as it has ended."""
    if run.folder.path in _writers:
        _write(run, record)


@hookimpl
def kdengine_after_fit(run: RunView, result: ResultView) -> None:
    """Log the settings and the final accuracy, then close the log."""
    if run.folder.path not in _writers:
        return
    with closing(_writers.pop(run.folder.path)) as writer:
        for name in ("top1", "best_top1"):
            if result.facts["student"].get(name) is not None:
                writer.add_scalar(f"result/{name}", result.facts["student"][name], len(result.history))
        # leave out the experiment summary: with one, TensorBoard shows only the options that the first run has
        _, start, end = hparams(run_choices(run), {})
        events: Any = writer.file_writer  # which torch annotates as None
        events.add_summary(start)
        events.add_summary(end)


@hookimpl
def kdengine_on_error(run: RunView) -> None:
    """Close the log."""
    if run.folder.path in _writers:
        _writers.pop(run.folder.path).close()


def _write(run: RunView, record: Mapping[str, Any]) -> None:
    """Log a row, and the name of the phase when it is the first of one."""
    writer, epoch = _writers[run.folder.path], record["epoch"]
    for tag, value in epoch_numbers(record).items():
        writer.add_scalar(tag, value, epoch)
    phases = [row for row in run.lane.history[:epoch] if row["phase_epoch"] == 1]
    writer.add_scalar("phase", len(phases), epoch)
    if record["phase_epoch"] == 1:
        of = f" of {record['network']}" if "network" in record else ""
        writer.add_text("phase", f"Phase {len(phases)} of {len(run.lane.phases)}: {record['phase']}{of}", epoch)
    writer.flush()
