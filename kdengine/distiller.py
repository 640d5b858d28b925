"""The contract of a method: a distiller turns a step (two traces and the labels) into named loss terms."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import Field, field_validator
from torch import Tensor, nn

from kdengine.errors import SettingsError, did_you_mean
from kdengine.settings import Strict
from kdengine.taps import Trace

__all__ = ["JOINT", "Distiller", "Pair", "Stage", "Step", "TapPair"]

JOINT = "joint"
"""Name of the stage that every run ends with: the task loss and all methods together."""


@dataclass(frozen=True)
class Stage:
    """A phase of training that comes before the joint one.

    Attributes:
        name: what logs and ``step.stage`` call it.
        epochs: how long; a float is a share of the run's joint epochs, rounded up.
        task: whether the task loss counts too; without it, both forwards stop at the deepest tap in use.
    """

    name: str
    epochs: int | float
    task: bool = False


@dataclass(frozen=True)
class TapPair:
    """One tap that a distiller reads on both sides.

    Attributes:
        name: canonical name or path on the student's side.
        student: the student's tensor.
        teacher: the teacher's tensor.
        rectified: whether the teacher's tensor comes straight out of a ReLU, so that it is never negative.
    """

    name: str
    student: Tensor
    teacher: Tensor
    rectified: bool = False


@dataclass(frozen=True)
class Step:
    """What a distiller sees of one batch. Every floating tensor is float32, whatever the forwards ran in.

    Attributes:
        x: the images as the student received them, [B, C, H, W].
        y: class indices, [B].
        index: position of each image in the training set, [B].
        student: the student's trace: ``student["stage2"]``, ``student.logits`` [B, K].
        teacher: the teacher's trace, without gradients.
        stage: name of the training stage, ``"joint"`` for the last one.
        epoch: epoch within the stage, from 0.
        progress: share of the stage that is done, in [0, 1].
        names: for each tap read, its name in the student's and in the teacher's trace.
        rectified: those of the teacher's taps that come straight out of a ReLU.
    """

    x: Tensor
    y: Tensor
    index: Tensor
    student: Trace
    teacher: Trace
    stage: str = JOINT
    epoch: int = 0
    progress: float = 0.0
    names: Sequence[tuple[str, str]] = ()
    rectified: Collection[str] = ()

    @property
    def pairs(self) -> list[TapPair]:
        """The distiller's taps on both sides, shallow to deep: for methods that treat all of them alike."""
        return list(_pairs(self.student, self.teacher, self.names, self.rectified))


@dataclass(frozen=True)
class Pair:
    """What a distiller may know of the two networks when it builds its connectors.

    Attributes:
        student: the student's taps as tensors on the meta device: ``student["stage2"].shape`` is [B, C, H, W], B = 2.
        teacher: the same of the teacher.
        num_classes: classes K of the data.
        num_samples: images in the training set.
        new_student: makes a fresh student of the same kind.
        names: for each tap read, its name in the student's and in the teacher's trace.
        rectified: those of the teacher's taps that come straight out of a ReLU.
    """

    student: Trace
    teacher: Trace
    num_classes: int
    num_samples: int
    new_student: Callable[[], nn.Module]
    names: Sequence[tuple[str, str]] = ()
    rectified: Collection[str] = ()

    @property
    def pairs(self) -> list[TapPair]:
        """The distiller's taps on both sides, as meta tensors."""
        return list(_pairs(self.student, self.teacher, self.names, self.rectified))


def _pairs(student: Trace, teacher: Trace, names: Sequence[tuple[str, str]], rectified: Collection[str]) -> Iterator[TapPair]:
    for here, there in names:
        yield TapPair(here.removeprefix("="), student[here], teacher[there], there.removeprefix("=") in rectified)


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
    needs: ClassVar[Sequence[str]] = ()
    """What the step must carry beyond logits, labels and taps."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Named sets of options, such as those of a published implementation."""

    class Options(Strict):
        """Options that every method has."""

        weight: float = Field(1.0, ge=0)
        """Factor on all terms of the method; 0 switches it off altogether."""
        taps: tuple[str, ...] | None = None
        """Taps in place of the method's own, in the same order: "TAP" or "STUDENT=TEACHER", one or several with commas."""
        preset: str | None = None
        """A named set of options; those given beside it win."""

        @field_validator("taps", mode="before")
        @classmethod
        def _from_text(cls, value: Any) -> Any:
            return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value

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

    def stages(self) -> Sequence[Stage]:
        """Training stages of this method, before the joint one."""
        return ()

    @property
    def task_weight(self) -> float:
        """Factor on the task loss (cross-entropy); a lane multiplies those of all its methods."""
        return 1.0

    def taps_in(self, stage: str) -> Sequence[str] | None:
        """The taps read in a stage; None where the method has no term in it, and is not called."""
        return self.options.taps or self.taps

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
    annotation = field.annotation
    return annotation.__name__ if type(annotation) is type else str(annotation).replace("typing.", "")
