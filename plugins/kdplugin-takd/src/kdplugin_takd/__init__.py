"""Teacher assistants: networks of middling size carry the knowledge from a large teacher to a small student."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor

from kdengine import Distiller, Names, Step, hookimpl
from kdplugin_takd.family import middle_of

__all__ = ["TAKD", "middle_of"]


class TAKD(Distiller):
    """Teacher assistants: the teacher teaches an assistant, which teaches the next one, and the last one the student.

    Each link of the chain is a distillation of its own, by whatever methods stand beside this one, or soft targets.

    Source: Mirzadeh et al., "Improved Knowledge Distillation via Teacher Assistant", AAAI 2020, arXiv:1902.03393.
    """

    name = "takd"
    category = "response"
    taps = ()
    companions = ("st",)

    class Options(Distiller.Options):
        """What a chain of assistants can be told."""

        assistants: Names | None = None
        """Networks between teacher and student, large to small, with commas; when left out, one is chosen by its size."""
        hand_over: Literal["best", "last"] = "best"
        """Which weights an assistant teaches with: those of its best epoch, or of its last."""

        def model_post_init(self, context: Any) -> None:
            """Refuse taps."""
            if self.taps is not None:
                raise ValueError(
                    "taps: a chain of assistants has no loss, and reads no taps; give them to the methods beside it"
                )

    def route(self, teacher: str, student: str) -> Sequence[str]:
        """The teacher, the assistants, the student."""
        chosen = self.options.assistants
        return (teacher, *((middle_of(teacher, student),) if chosen is None else chosen), student)

    @property
    def hand_over(self) -> Literal["best", "last"]:
        """Which weights an assistant teaches with."""
        return self.options.hand_over

    def taps_in(self, stage: str) -> Sequence[str] | None:
        """Nothing is read: the methods beside this one do the teaching."""
        return None

    def forward(self, step: Step) -> dict[str, Tensor]:
        """No terms."""
        return {}


@hookimpl
def kdengine_register(registry: Any) -> None:
    """Offer the method."""
    registry.distiller(TAKD)
