"""Names that several packages share: of files in folders, and of lanes."""

from __future__ import annotations

__all__ = ["NOTE", "PLAIN"]

NOTE = "comparison.json"
"""The file that marks the folder of a comparison, next to its trials."""
PLAIN = "plain"
"""Label of the lane that trains the student without any method."""
