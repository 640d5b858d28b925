"""Merit-based distillation: the more the teacher is right about an image, the more the student mimics it there."""

from __future__ import annotations

from kdplugin_mbd.base import MeritBased, correct, merit_loss
from kdplugin_mbd.delta import DeltaMerit, delta_merit
from kdplugin_mbd.hard import HardMerit, hard_merit
from kdplugin_mbd.soft import SoftMerit, soft_merit

__all__ = [
    "DeltaMerit",
    "HardMerit",
    "MeritBased",
    "SoftMerit",
    "correct",
    "delta_merit",
    "hard_merit",
    "merit_loss",
    "soft_merit",
]
