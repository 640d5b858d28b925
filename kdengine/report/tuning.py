"""The table of the learning rates that were probed before a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdengine.errors import counted
from kdengine.report.columns import number
from kdengine.report.table import Table
from kdengine.storage.scores import Scoring

__all__ = ["tuning_table"]


def tuning_table(tuned: Mapping[str, Any], scoring: Scoring) -> Table:
    """Every probe with its score, and which rate was chosen.

    Args:
        tuned: the entry of ``comparison.json``.
        scoring: the measures of the task.
    """
    headline = scoring.headline
    text = (
        f"Learning rates: {counted(tuned['epochs'], 'epoch')} each, {headline.label} on {100 * tuned['validation']:g} % of the "
        "training images, held out for that."
    )
    rows = [
        (
            probe["lane"],
            f"{probe['lr']:g}",
            number(headline, probe.get(f"val_{headline.name}"), "failed"),
            _chosen(probe, tuned) if probe["chosen"] else "",
        )
        for probe in tuned["probes"]
    ]
    return Table(text, ("probed", "train.lr", f"held-out {headline.title}", "note"), tuple(rows))


def _chosen(probe: Mapping[str, Any], tuned: Mapping[str, Any]) -> str:
    """``chosen``, and whether a rate beyond those that were probed may be better."""
    rates = [other["lr"] for other in tuned["probes"] if other["lane"] == probe["lane"]]
    ends = {min(rates): "lowest", max(rates): "highest"}
    return f"chosen; the {ends[probe['lr']]} that was probed" if probe["lr"] in ends else "chosen"
