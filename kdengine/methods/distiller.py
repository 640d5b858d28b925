"""The contract of a method: a distiller turns a step (two traces and the labels) into named loss terms."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from kdengine.config.settings import Names, Strict
from kdengine.config.strict import describe_fields
from kdengine.errors import SettingsError, did_you_mean
from kdengine.methods.pair import Pair
from kdengine.methods.step import Phase, Step

__all__ = ["Distiller"]


class Distiller(nn.Module, ABC):
    """Base class of every method. Only ``name`` and :meth:`forward` are required; submodules are the connectors.

    Args:
        **options: values for the method's ``Options``.

    Raises:
        SettingsError: an option is unknown or has an invalid value.
    """

    name: ClassVar[str]
    """The method's name on the command line and in logs."""
    category: ClassVar[str] = "response"
    """``response``, ``multi-connection``, ``shared-representation`` or ``relational``."""
    groups: ClassVar[Sequence[str]] = ()
    """Named groups for ``compare --methods GROUP``: ``logits``, ``relations`` or ``maps`` by what is compared, and ``classic``
    (published up to 2020) or ``modern``; plugins may add names of their own."""
    taps: ClassVar[Sequence[str]] = ("logits",)
    """The taps recorded on both networks; ``"student=teacher"`` if they differ. None by default if no teacher is required."""
    student_taps: ClassVar[Sequence[str]] = ()
    """Taps recorded on the student alone: ``step.student["stage1"]``; their names are ``step.student_taps``."""
    teacher_taps: ClassVar[Sequence[str]] = ()
    """Taps recorded on the teacher alone. A network of which nothing is read in a phase without the task does not run."""
    takes: ClassVar[str | None] = None
    """What the taps must give on both sides: ``maps``, ``vectors``, ``logits`` or ``features``; None leaves it to ``build``."""
    requires_teacher: ClassVar[bool] = True
    """Whether the method reads the teacher at all; False if, for example, its peers teach one another: then it also works
    without a teacher."""
    reads: ClassVar[Literal["each-teacher", "all-teachers"]] = "each-teacher"
    """With several teachers, the method is used with each of them, connectors included, and its terms are averaged; a method
    that reads ``all-teachers`` is used once, and finds them in ``step.per_teacher`` and ``pair.per_teacher``."""
    needs: ClassVar[Sequence[str]] = ()
    """What the step must provide beyond logits, targets and taps; a run that cannot provide it is refused:

    * ``index``: ``step.index``, the position of each image in the training set.
    * ``labels``: ``step.y``, the targets of the images.
    * ``hard_labels``: ``step.y`` has class indices, so images must not be mixed.
    * ``views:2``: ``step.views``, the step on two augmentations of the same images.
    * ``input_gradients``: ``step.student.logits`` and ``step.teacher.logits`` can be differentiated with respect to
      ``step.student.input`` and ``step.teacher.input``.
    """

    serves: ClassVar[Sequence[str]] = ("classes",)
    """The kinds of outputs that the method is defined for, if it reads logits or targets: ``classes`` [B, K], of which a
    softmax makes shares, or ``labels`` [B, K], each of which a sigmoid makes a probability; ``pair.outputs`` says which."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Named sets of options, such as those of a published implementation."""
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Options that have another default where the outputs of the task are of a kind: ``{"pixels": {"temperature": 1.0}}``."""

    class Options(Strict):
        """Options of every method."""

        weight: float = Field(1.0, ge=0)
        """Factor on all terms of the method; 0 disables the method."""
        taps: Names | None = None
        """Taps that replace the method's own, in the same order: "TAP" or "STUDENT=TEACHER", separated by commas."""
        preset: str | None = None
        """A named set of options; explicit options override it."""

    def __init_subclass__(cls, **arguments: Any) -> None:
        """A method that requires no teacher has no taps on both networks, unless it names some."""
        super().__init_subclass__(**arguments)
        bases = cls.__mro__[: cls.__mro__.index(Distiller)]
        if not cls.requires_teacher and not any("taps" in vars(base) for base in bases):
            cls.taps = ()

    def __init__(self, **options: Any) -> None:
        super().__init__()
        if not getattr(type(self), "name", ""):
            raise SettingsError(f"The method {type(self).__name__} has no name. Give the class one: name = 'my-method'.")
        self.options = self.Options.checked({**self._preset(options.get("preset")), **options}, owner=self.name)

    def suit(self, outputs: str) -> None:
        """Take the defaults that suit outputs of a kind, such as ``pixels``, for options that nobody chose."""
        own = {
            name: value for name, value in self.defaults.get(outputs, {}).items() if name not in self.options.model_fields_set
        }
        self.options = self.options.model_copy(update=own) if own else self.options

    def _preset(self, name: Any) -> Mapping[str, Any]:
        if not isinstance(name, str):
            return {}  # None, or not a string, which the validation of the options reports
        if name in self.presets:
            return self.presets[name]
        near = did_you_mean(name, self.presets) or f"Available: {', '.join(self.presets) or 'none'}."
        raise SettingsError(f"{self.name} has no preset '{name}'. {near}")

    @abstractmethod
    def forward(self, step: Step) -> Mapping[str, Tensor]:
        """The loss terms of one batch, name -> scalar []. The engine multiplies them by ``weight`` and adds them up."""

    def build(self, pair: Pair) -> None:
        """Create the connectors from the shapes at the taps. Called once; the engine restores the random state afterwards."""
        return

    def phases(self) -> Sequence[Phase]:
        """Training phases of this method that precede the joint phase."""
        return ()

    @property
    def task_weight(self) -> float:
        """Factor on the task loss; the factors of all methods of a lane are multiplied."""
        return 1.0

    def taps_in(self, phase: str) -> Sequence[str] | None:
        """The taps read in a phase; None if the method has no term in that phase and must not be called."""
        return self.options.taps or self.taps

    def student_taps_in(self, phase: str) -> Sequence[str]:
        """The taps read on the student alone, in a phase in which the method has a term."""
        return self.student_taps

    def teacher_taps_in(self, phase: str) -> Sequence[str]:
        """The taps read on the teacher alone, in a phase in which the method has a term."""
        return self.teacher_taps

    def parameter_groups(self) -> Sequence[Mapping[str, Any]]:
        """Groups of the method's own parameters with a learning rate or weight decay of their own; the rest is as usual.

        Returns:
            Mappings with ``params``, a list of parameters, and ``lr_scale``, a factor on the learning rate, or
            ``weight_decay``, or both.
        """
        return ()

    def after_update(self, student: nn.Module) -> None:
        """Called after every update of the weights, without gradients, such as to follow the student with an average."""
        return

    @property
    def clips_to_task(self) -> bool:
        """Whether to clip the gradient of the method's terms, parameter by parameter, to a share of the norm of all others.

        The share rises from 0.5 towards 1 over the epochs of a phase.
        """
        return False

    def deploy(self, student: nn.Module) -> nn.Module:
        """The network to ship after training, for methods that modify the student.

        It is what is evaluated after every epoch, counted, saved, exported and loaded again. The student may be modified.
        """
        return student

    @classmethod
    def ships_a_network(cls) -> bool:
        """Whether the method ships another network than the student that it trains."""
        return cls.deploy is not Distiller.deploy

    @classmethod
    def describe(cls) -> dict[str, Any]:
        """Name, category, groups, summary, source, taps, needs, presets and options, as plain data."""
        doc = re.sub(r"[ \t]+", " ", cls.__doc__ or "")
        summary, _, rest = doc.partition("\n")
        source = re.search(r"Source:\s*(.+?)(?:\n\s*\n|\Z)", rest, re.DOTALL)
        return {
            "name": cls.name,
            "category": cls.category,
            "groups": list(cls.groups),
            "summary": summary.strip(),
            "source": " ".join(source[1].split()) if source else "",
            "taps": [
                *cls.taps,
                *(f"student:{tap}" for tap in cls.student_taps),
                *(f"teacher:{tap}" for tap in cls.teacher_taps),
            ],
            "needs": list(cls.needs),
            "presets": {name: dict(values) for name, values in cls.presets.items()},
            "options": describe_fields(cls.Options),
        }
