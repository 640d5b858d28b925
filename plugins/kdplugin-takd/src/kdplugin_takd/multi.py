"""Multi: teacher assistants, with hints and soft targets on every link of the chain."""

from __future__ import annotations

from typing import Any

from kdengine import hookimpl

__all__ = ["METHODS"]

METHODS = ("takd", "fitnet", "st")
SUMMARY = "Multi: through teacher assistants to the student, every link first by hints and then by soft targets."
SOURCE = "Morikawa, 2022, as in motakuss/Knowledge-Distillation-Technique."


@hookimpl
def kdengine_register(registry: Any) -> None:
    """Offer the composition."""
    registry.composition("multi", METHODS, SUMMARY, SOURCE)
