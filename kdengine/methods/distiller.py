"""The contract of a method: a distiller turns a step (two traces and the labels) into named loss terms."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import or_
from types import UnionType
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin

from pydantic import Field
from torch import Tensor, nn

from kdengine.config.settings import Names, Strict
from kdengine.errors import SettingsError, did_you_mean
from kdengine.methods.step import Pair, Phase, Step

__all__ = ["Distiller"]


class Distiller(nn.Module, ABC):
    """Base of every method. Only ``name`` and :meth:`forward` are obligatory; submodules are the connectors.

    Args:
        **options: values for the method's ``Options``.

    Raises:
        SettingsError: an option is unknown or its value does not fit.
    """

    name: ClassVar[str]
    """What the command line and the logs call the method."""
    category: ClassVar[str] = "response"
    """``response``, ``multi-connection``, ``shared-representation`` or ``relational``."""
    taps: ClassVar[Sequence[str]] = ("logits",)
    """What is recorded on both sides; ``"student=teacher"`` where the two differ."""
    takes: ClassVar[str | None] = None
    """What the taps must give on both sides: ``maps``, ``vectors``, ``logits`` or ``features``; None leaves it to ``build``."""
    requires_teacher: ClassVar[bool] = True
    """Whether the method reads the teacher at all; False where its peers teach one another."""
    needs: ClassVar[Sequence[str]] = ()
    """What the step must carry beyond logits, labels and taps: ``input_gradients`` lets ``step.student.logits`` and
    ``step.teacher.logits`` be differentiated with respect to ``step.student.input`` and ``step.teacher.input``."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Named sets of options, such as those of a published implementation."""

    class Options(Strict):
        """Options that every method has."""

        weight: float = Field(1.0, ge=0)
        """Factor on all terms of the method; 0 switches it off altogether."""
        taps: Names | None = None
        """Taps in place of the method's own, in the same order: "TAP" or "STUDENT=TEACHER", one or several with commas."""
        preset: str | None = None
        """A named set of options; those given beside it win."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = self.Options.checked({**self._preset(options.get("preset")), **options}, owner=self.name)

    def _preset(self, name: Any) -> Mapping[str, Any]:
        if not isinstance(name, str):
            return {}  # nothing, or no name at all, which the options will say
        if name in self.presets:
            return self.presets[name]
        near = did_you_mean(name, self.presets) or f"There are: {', '.join(self.presets) or 'none'}."
        raise SettingsError(f"{self.name} has no preset '{name}'. {near}")

    @abstractmethod
    def forward(self, step: Step) -> Mapping[str, Tensor]:
        """The loss terms of one batch, name -> scalar []. The engine multiplies them by ``weight`` and adds them."""

    def build(self, pair: Pair) -> None:
        """Create connectors, once, from the shapes at the taps. The random state around the call is restored."""
        return

    def phases(self) -> Sequence[Phase]:
        """Training phases of this method, before the joint one."""
        return ()

    @property
    def task_weight(self) -> float:
        """Factor on the task loss (cross-entropy); a lane multiplies those of all its methods."""
        return 1.0

    def taps_in(self, phase: str) -> Sequence[str] | None:
        """The taps read in a phase; None where the method has no term in it, and is not called."""
        return self.options.taps or self.taps

    @property
    def clips_to_task(self) -> bool:
        """Whether the gradient of its terms is shortened, tensor by tensor, to at most that of all other terms."""
        return False

    def deploy(self, student: nn.Module) -> nn.Module:
        """The network to ship after training, for methods that change it."""
        return student

    @classmethod
    def describe(cls) -> dict[str, Any]:
        """Name, category, summary, source, taps and options, as plain data."""
        doc = re.sub(r"[ \t]+", " ", cls.__doc__ or "")
        summary, _, rest = doc.partition("\n")
        source = re.search(r"Source:\s*(.+?)(?:\n\s*\n|\Z)", rest, re.DOTALL)
        return {
            "name": cls.name,
            "category": cls.category,
            "summary": summary.strip(),
            "source": " ".join(source[1].split()) if source else "",
            "taps": list(cls.taps),
            "presets": {name: dict(values) for name, values in cls.presets.items()},
            "options": {
                name: {
                    "default": field.get_default(call_default_factory=True),
                    "help": field.description or "",
                    "type": _type_name(field),
                }
                for name, field in cls.Options.model_fields.items()
            },
        }


def _type_name(field: Any) -> str:
    annotation = _bare(field.annotation)
    return annotation.__name__ if type(annotation) is type else str(annotation).replace("typing.", "")


def _bare(annotation: Any) -> Any:
    """A type without what pydantic was told beside it."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _bare(arguments[0])
    if not arguments or origin is Literal:
        return annotation
    bare = tuple(map(_bare, arguments))
    return reduce(or_, bare) if origin in (Union, UnionType) else origin[bare]
