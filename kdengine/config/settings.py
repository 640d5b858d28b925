"""The typed settings of a run. Defaults, recipes, TOML files and ``-o`` all fill the same models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from kdengine.config.store_settings import StoreSettings, TeacherStoreSetting
from kdengine.config.strict import MANY, Names, Strict
from kdengine.config.train_settings import OF_THE_STUDENT, OPEN, ConcreteTrain, TrainSettings
from kdengine.config.validation import COMPLETE, shown
from kdengine.config.values import merge, parse_assignment
from kdengine.errors import SettingsError, did_you_mean

__all__ = [
    "LOADERS",
    "MANY",
    "NEUTRAL",
    "WITHOUT_WEIGHTS",
    "ConcreteTrain",
    "InputSettings",
    "Names",
    "Settings",
    "StoreSettings",
    "Strict",
    "TrainSettings",
    "from_assignments",
]


LOADERS = "loaders"
"""The value of ``data`` when the user passed loaders of their own."""
NEUTRAL = (
    *("train.device", "train.workers", "train.save_minutes", "train.keep_every", "train.log_every"),
    *("teacher_store.folder", "teacher_store.taps", "teacher_store.budget"),
)
"""Settings that do not affect the trained weights, apart from rounding."""
WITHOUT_WEIGHTS = "none"
"""Stands in a list of weights for a teacher that has none, so that it is trained first."""


def _rows_and_columns(value: Any) -> Any:
    """Rows and columns; a single number gives both."""
    pair = (value, value) if isinstance(value, int) else value
    if value is None or (_is_list(pair, int) and len(pair) == 2 and 0 < min(pair) <= max(pair) < 2**16):
        return pair
    raise ValueError("a number of pixels below 65536 is needed, such as 224, or [ROWS, COLUMNS]")


def _for_each_channel(value: Any) -> Any:
    if value is None or (_is_list(value, int | float) and len(value) > 0):
        return value
    raise ValueError("one number for each channel is needed, on the scale 0 to 1, such as [0.485, 0.456, 0.406]")


def _is_list(value: Any, kind: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, kind) and not isinstance(item, bool) for item in value)


class InputSettings(Strict):
    """The images that a network receives.

    Values that are left out follow the network's pretrained weights; without pretrained weights, they follow the data.
    """

    size: Annotated[tuple[int, int] | None, BeforeValidator(_rows_and_columns)] = None
    """Rows and columns, or one number for both; images of another size are resized."""
    mean: Annotated[tuple[float, ...] | None, BeforeValidator(_for_each_channel)] = None
    """Mean that is subtracted from each channel, on the scale 0 to 1."""
    std: Annotated[tuple[Annotated[float, Field(gt=0)], ...] | None, BeforeValidator(_for_each_channel)] = None
    """Standard deviation by which each channel is then divided."""


class Settings(Strict):
    """Everything that determines a run; ``run.toml`` in a run folder holds these settings as resolved."""

    student: str
    """Network to train."""
    teacher: str | None = None
    """Network to learn from; left out for plain training."""
    further_teachers: Names = ()
    """Networks to learn from beside that one: every method learns from each of them."""
    methods: tuple[str, ...] = ()
    """Distillation methods, in order; the same one may occur twice."""
    data: str = "digits"
    """Data to train and evaluate on."""
    task: str | None = None
    """Task of the student; by default the task of the data."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Seed of weights, batches, augmentation and dropout."""
    teacher_weights: str | None = None
    """File with the teacher's weights; without it, the teacher is trained first."""
    further_teacher_weights: Names = ()
    """The same for each of `further_teachers`, in their order; 'none' for one that is trained first."""
    student_weights: str | None = None
    """File or run folder whose weights the student starts from; a head of another size starts fresh."""
    train: TrainSettings = TrainSettings()
    """How the student is trained."""
    teacher_train: dict[str, Any] = Field(default_factory=dict)
    """Overrides of `train` for the own training of each teacher."""
    teacher_input: InputSettings = InputSettings()
    """The images that each teacher receives."""
    student_input: InputSettings = InputSettings()
    """The images that the student receives."""
    teacher_store: TeacherStoreSetting = StoreSettings()
    """Folder in which to keep what the teachers show, or a table with that."""
    factories: dict[str, str] = Field(default_factory=dict)
    """Names of the optimizer and scheduler factories that were passed in Python; recorded, not to be set."""
    options: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Options by method. The second fitnet of a run is named 'fitnet-2'."""

    @field_validator("teacher_train")
    @classmethod
    def _check_teacher_train(cls, values: dict[str, Any]) -> dict[str, Any]:
        try:
            TrainSettings.checked(values, owner="teacher_train")
        except SettingsError as error:
            raise PydanticCustomError(COMPLETE, "{text}", {"text": str(error)}) from None
        return values

    @field_validator("teacher_input", "student_input", mode="before")
    @classmethod
    def _check_input(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, Mapping | InputSettings):
            return value
        name, parts = info.field_name, ", ".join(InputSettings.model_fields)
        text = f"{name} = {shown(value)}: set its parts one by one ({parts}), for example {name}.size=224."
        raise PydanticCustomError(COMPLETE, "{text}", {"text": text})

    @field_validator("teacher_weights", mode="after")
    @classmethod
    def _without_weights(cls, value: str | None) -> str | None:
        return None if value == WITHOUT_WEIGHTS else value

    @model_validator(mode="after")
    def _check_teachers(self) -> Self:
        further, weights = self.further_teachers, self.further_teacher_weights
        text = ""
        if further and self.teacher is None:
            text = f"further_teachers = {', '.join(further)}: these stand beside a first teacher. Name that one as 'teacher'."
        elif len(weights) > len(further):
            text = (
                f"further_teacher_weights names {len(weights)} files, but there are {len(further)} teachers beside the first. "
                "Name the teachers, or leave weights out."
            )
        if text:
            raise PydanticCustomError(COMPLETE, "{text}", {"text": text})
        return self

    @property
    def teachers(self) -> tuple[str, ...]:
        """All networks to learn from."""
        return () if self.teacher is None else (self.teacher, *self.further_teachers)

    @property
    def weights_of_teachers(self) -> tuple[str | None, ...]:
        """The file with the weights of each teacher; None for one that has none."""
        given = [None if path == WITHOUT_WEIGHTS else path for path in self.further_teacher_weights]
        return (self.teacher_weights, *given, *[None] * len(self.teachers))[: len(self.teachers)]

    @property
    def taught_by(self) -> str:
        """The teachers in one text: ``resnet32 + resnet20``; empty without a teacher."""
        return " + ".join(self.teachers)

    def with_teacher_weights(self, paths: Sequence[str | None]) -> Settings:
        """These settings with the weights of all teachers, in their order."""
        first, *further = paths
        named = tuple(path or WITHOUT_WEIGHTS for path in further)
        return self.model_copy(update={"teacher_weights": first, "further_teacher_weights": named if any(further) else ()})

    def without_teacher(self) -> Settings:
        """These settings without teachers and what is said about them."""
        named = {"teacher", "further_teachers", "teacher_weights", "further_teacher_weights", "teacher_train", "teacher_input"}
        named.add("teacher_store")
        fields = type(self).model_fields
        return self.model_copy(update={name: fields[name].get_default(call_default_factory=True) for name in sorted(named)})

    @property
    def teacher_training(self) -> TrainSettings:
        """The settings of a teacher's own training: `train` but for what names the student's parts, and `teacher_train`."""
        values = {**self.train.model_dump(exclude=OF_THE_STUDENT), **self.teacher_train}
        return TrainSettings.checked(values, owner="teacher_train")

    @property
    def own_teacher_training(self) -> dict[str, Any]:
        """`teacher_train` written out, so that it no longer inherits from `train`; what is left open stays open."""
        values = self.teacher_training.model_dump(mode="json", exclude_none=True)
        return {**dict.fromkeys(OPEN, "auto"), **values}


def from_assignments(texts: Sequence[str]) -> dict[str, Any]:
    """Several ``-o`` options as values of :class:`Settings`; names that are no settings belong to methods.

    Raises:
        SettingsError: lists every option that cannot be read.
    """
    values: dict[str, Any] = {}
    faults = []
    for text in texts:
        try:
            assigned = parse_assignment(text)
        except SettingsError as error:
            faults.append(str(error))
            continue
        (name,) = assigned
        if name not in Settings.model_fields and not isinstance(assigned[name], Mapping):
            train = f"Did you mean 'train.{name}'?" if name in TrainSettings.model_fields else ""
            near = train or did_you_mean(name, Settings.model_fields) or "Write METHOD.OPTION=VALUE."
            faults.append(f"There is no setting '{name}'. {near}")
            continue
        values = merge(values, assigned if name in Settings.model_fields else {"options": assigned})
    if faults:
        raise SettingsError("\n".join(faults))
    return values
