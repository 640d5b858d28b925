"""Tables over run folders, from what lies in them alone."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdengine.errors import SettingsError
from kdengine.runfolder import RunFolder

__all__ = ["Table", "results_table"]

COLUMNS = ("network", "method", "seed", "epochs", "last top-1 %", "best top-1 %", "top-5 %", "parameters", "seconds")


@dataclass(frozen=True)
class Table:
    """A table as text cells, with what it is about."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def to_markdown(self) -> str:
        """A Markdown table, with the caption above."""
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        return f"{self.caption}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"

    def to_csv(self) -> str:
        """Comma-separated values with a header."""
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows([self.columns, *self.rows])
        return out.getvalue()


def results_table(folders: Sequence[str | Path], mixed: bool = False) -> Table:
    """Teacher and students of several finished runs, last and best, in the order given.

    Args:
        folders: run folders.
        mixed: allow runs on different data.

    Raises:
        SettingsError: a folder holds no finished run, or the runs were made on different data.
    """
    results = [_finished(folder) for folder in folders]
    prints = {result["data"].get("fingerprint") for result in results}
    if len(prints) > 1 and not mixed:
        names = ", ".join(sorted({result["data"]["name"] for result in results}))
        raise SettingsError(f"These runs were made on different data ({names}), so one table would mislead. --mixed allows it.")
    rows: list[tuple[str, ...]] = []
    for result in results:
        teacher = _row(result["teacher"], "teacher", "") if result["teacher"] else None
        if teacher is not None and teacher not in rows:
            rows.append(teacher)  # one that several runs share stands there once
        rows.append(_row(result["student"], result["method"], str(result["settings"]["seed"])))
    return Table(_caption(folders[0], results[0]), COLUMNS, tuple(rows))


def _finished(folder: str | Path) -> dict[str, Any]:
    result = RunFolder(folder).result()
    if result is None:
        raise SettingsError(f"'{folder}' holds no finished run: there is no result.json.")
    return result


def _row(facts: dict[str, Any], method: str, seed: str) -> tuple[str, ...]:
    def percent(name: str) -> str:
        return "" if facts.get(name) is None else f"{facts[name]:.2f}"

    return (
        facts["name"],
        method,
        seed,
        str(facts.get("epochs", "")),
        percent("top1"),
        percent("best_top1"),
        percent("top5"),
        f"{facts['parameters']:,}",
        f"{facts.get('seconds', 0):.0f}" if facts.get("seconds") else "",
    )


def _caption(folder: str | Path, result: dict[str, Any]) -> str:
    """Data, machine and versions, as the first run's folder has them."""
    data, manifest = result["data"], RunFolder(folder).manifest()
    versions = manifest["versions"]
    return (
        f"{data['name']}: {data.get('train_images', '?')} training and {data.get('test_images', '?')} test images. "
        f"{manifest['device_name']}, {manifest['threads']} threads, {manifest['precision']}; torch {versions['torch']}, "
        f"timm {versions['timm']}, kdengine {versions['kdengine']}."
    )
