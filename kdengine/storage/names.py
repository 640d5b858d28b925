"""Names that several packages share: of files in folders, and of lanes."""

from __future__ import annotations

__all__ = ["BENCHMARK", "NOTE", "PLAIN", "SAMPLES", "TUNING"]

BENCHMARK = "benchmark.json"
"""The file of a run folder with what its student costs where it runs."""
NOTE = "comparison.json"
"""The file that marks the folder of a comparison, next to its trials."""
PLAIN = "plain"
"""Label of the lane that trains the student without any method."""
SAMPLES = "samples.png"
"""The file of a run folder with pictures of what its networks say: a row for each image."""
TUNING = "tuning"
"""Folder of the probes in the folder of a comparison; they are no part of its results."""
