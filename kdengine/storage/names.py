"""Names that several packages share: of files in folders, and of lanes."""

from __future__ import annotations

__all__ = ["BENCHMARK", "BEST", "LAST", "NOTE", "PLAIN", "PUBLISHED", "SAMPLES", "TUNING", "uncompiled"]

BENCHMARK = "benchmark.json"
"""The file of a run folder with what its student costs where it runs."""
LAST, BEST = "student.safetensors", "student-best.safetensors"
"""The files of a run folder with the weights of the last and of the best epoch."""
NOTE = "comparison.json"
"""The file that marks the folder of a comparison, next to its trials."""
PLAIN = "plain"
"""Label of the lane that trains the student without any method."""
PUBLISHED = "model.safetensors"
"""The file with the weights in a folder that ``kdengine push`` has made of a run, which has no others."""
SAMPLES = "samples.png"
"""The file of a run folder with pictures of what its networks say: a row for each image."""
TUNING = "tuning"
"""Folder of the probes in the folder of a comparison; they are no part of its results."""


def uncompiled(name: str) -> str:
    """The name that a tensor has in the module itself, where ``torch.compile`` wraps all of it or parts.

    >>> uncompiled("blocks.0._orig_mod.conv.weight")
    'blocks.0.conv.weight'
    """
    return name.replace("_orig_mod.", "")
