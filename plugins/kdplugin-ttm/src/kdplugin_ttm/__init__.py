"""Transformed teacher matching: the student as it is learns the teacher's smoothed probabilities."""

from __future__ import annotations

from kdplugin_ttm.base import Matching, divergences, power_sum
from kdplugin_ttm.matching import TTM
from kdplugin_ttm.weighted import WTTM

__all__ = ["TTM", "WTTM", "Matching", "divergences", "power_sum"]
