"""Names that several rooms agree on: of files in folders, and of lanes."""

from __future__ import annotations

__all__ = ["NOTE", "PLAIN"]

NOTE = "comparison.json"
"""The file that makes a folder one of a comparison; it lies beside the trials."""
PLAIN = "plain"
"""Label of the lane that trains the student without a method."""
