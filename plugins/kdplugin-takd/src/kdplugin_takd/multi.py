"""Multi: teacher assistants, with hints and soft targets on every step of the chain."""

from __future__ import annotations

from kdengine import Registrar, hookimpl

__all__ = ["METHODS"]

METHODS = ("takd", "fitnet", "st")
SUMMARY = "Multi: through teacher assistants to the student, every step of the chain first by hints, then by soft targets."
SOURCE = "Morikawa, 2022, as in motakuss/Knowledge-Distillation-Technique."


@hookimpl
def kdengine_register(registry: Registrar) -> None:
    """Offer the composition."""
    registry.composition("multi", METHODS, SUMMARY, SOURCE)
