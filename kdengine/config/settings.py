"""The typed settings of a run. Defaults, recipes, TOML files and ``-o`` all end in the same models."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from kdengine.config.validation import SAID, faults_in, shown
from kdengine.errors import SettingsError, did_you_mean

__all__ = [
    "LOADERS",
    "MANY",
    "NEUTRAL",
    "InputSettings",
    "Names",
    "Settings",
    "Strict",
    "TrainSettings",
    "flat",
    "from_assignments",
    "merge",
    "parse_assignment",
    "read_toml",
    "split_names",
]


LOADERS = "loaders"
"""What settings call data that came as loaders of the user's own."""
NEUTRAL = ("train.device", "train.workers", "train.save_minutes")
"""Settings that do not decide what is learnt."""


class Strict(BaseModel):
    """Base of every settings and options model: frozen, no unknown names, the string under a field is its help."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )

    @classmethod
    def checked(cls, values: Mapping[str, Any], owner: str = "") -> Self:
        """Build the model, or say every fault at once.

        Args:
            values: field -> value.
            owner: what the names are prefixed with in errors, such as ``rkd``.

        Raises:
            SettingsError: with one line per unknown name or unfit value.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise SettingsError("\n".join(faults_in(cls, values, error.errors(), owner))) from None


def split_names(value: Any) -> Any:
    """Text at its commas, but for those inside brackets: ``"a,b@x=[1,2]"`` is ``("a", "b@x=[1,2]")``; else the value."""
    if not isinstance(value, str):
        return value
    parts, depth = [""], 0
    for piece in re.split(r"([\[\],])", value):
        depth = max(0, depth + (piece == "[") - (piece == "]"))
        if piece == "," and not depth:
            parts.append("")
        else:
            parts[-1] += piece
    return tuple(part.strip() for part in parts)


Names = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(split_names)]
"""Type of an option that lists names: of taps, of networks; on the command line one or several with commas."""


DEEPEST = 16
"""Parts that a dotted name may have; no option lies that deep."""

MANY = 10_000_000
"""The largest count of epochs or of images in a batch: a typing error is refused before torch counts past its range."""


class TrainSettings(Strict):
    """How a network is trained."""

    epochs: int = Field(30, ge=1, le=MANY)
    """Epochs of the joint phase; a method's own phases come on top."""
    batch_size: int = Field(128, ge=1, le=MANY)
    """Images in a batch."""
    optimizer: str = "sgd"
    """Any optimizer that timm knows by name."""
    lr: float = Field(0.1, gt=0)
    """Learning rate at the start."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum, for optimizers that have one."""
    weight_decay: float = Field(5e-4, ge=0)
    """L2 penalty on every trainable parameter."""
    nesterov: bool = True
    """Nesterov's momentum, for optimizer 'sgd'."""
    schedule: Literal["cosine", "multistep", "constant"] = "cosine"
    """How the learning rate falls over the joint phase; other phases keep it constant."""
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.3, 0.6, 0.8)
    """Shares of the joint phase at which 'multistep' lowers the rate."""
    decay: float = Field(0.1, gt=0, lt=1)
    """Factor by which 'multistep' lowers the rate."""
    warmup_epochs: int = Field(0, ge=0, le=MANY)
    """Epochs in which the rate rises linearly from a tenth."""
    clip_grad: float | None = Field(None, gt=0)
    """Largest norm of the gradient of all parameters together; not clipped when left out."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Label smoothing of the task loss."""
    validation: float = Field(0.0, ge=0, lt=1)
    """Share of the training images held out to choose the best epoch by; with 0 the test images choose it."""
    augment: Literal["auto", "none", "crop", "crop-flip"] = "auto"
    """Padded random crops, and mirror images; 'auto' does what suits the data."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of the forwards: 'auto' is bf16 where the hardware has it natively, else fp32. Losses are fp32."""
    channels_last: bool = True
    """Memory layout of the forwards; faster for convolutions on most hardware."""
    device: str = "auto"
    """'auto', 'cpu', 'cuda' or 'mps'."""
    workers: int = Field(2, ge=0, le=1024)
    """Processes that read images, for data too large for memory."""
    reset_optimizer: bool = True
    """Whether each training phase begins with a fresh optimizer."""
    save_minutes: float = Field(10.0, ge=0)
    """Minutes after which the state is saved within an epoch, to be resumed from; with 0 it is saved after epochs only."""


def _rows_and_columns(value: Any) -> Any:
    """One number as rows and columns."""
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

    What is left out is as the network's pretrained weights were made for, or as the data has it where there are none.
    """

    size: Annotated[tuple[int, int] | None, BeforeValidator(_rows_and_columns)] = None
    """Rows and columns, or one number for both; images of another size are resized."""
    mean: Annotated[tuple[float, ...] | None, BeforeValidator(_for_each_channel)] = None
    """What is taken off each channel, on the scale 0 to 1."""
    std: Annotated[tuple[Annotated[float, Field(gt=0)], ...] | None, BeforeValidator(_for_each_channel)] = None
    """What each channel is then divided by."""


class Settings(Strict):
    """Everything that decides a run; ``run.toml`` in a run folder is this, as resolved."""

    student: str
    """The network to train."""
    teacher: str | None = None
    """The network to learn from; left out for plain training."""
    methods: tuple[str, ...] = ()
    """Distillation methods, in order; the same one may stand there twice."""
    data: str = "digits"
    """What to train on."""
    task: str | None = None
    """What the student is for; by default what the data is for."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Seed of weights, batches, augmentation and dropout."""
    teacher_weights: str | None = None
    """File of the teacher's weights; without it the teacher is trained first."""
    train: TrainSettings = TrainSettings()
    """How the student is trained."""
    teacher_train: dict[str, Any] = {}
    """What the teacher's own training does otherwise than the student's."""
    teacher_input: InputSettings = InputSettings()
    """The images that the teacher receives."""
    student_input: InputSettings = InputSettings()
    """The images that the student receives."""
    options: dict[str, dict[str, Any]] = {}
    """Method -> its options. The second fitnet of a run is 'fitnet-2'."""

    @field_validator("teacher_train")
    @classmethod
    def _known_to_training(cls, values: dict[str, Any]) -> dict[str, Any]:
        try:
            TrainSettings.checked(values, owner="teacher_train")
        except SettingsError as error:
            raise PydanticCustomError(SAID, "{text}", {"text": str(error)}) from None
        return values

    @field_validator("teacher_input", "student_input", mode="before")
    @classmethod
    def _of_parts(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, Mapping | InputSettings):
            return value
        name, parts = info.field_name, ", ".join(InputSettings.model_fields)
        said = f"{name} = {shown(value)}: its parts are set one by one: {parts}, as in {name}.size=224."
        raise PydanticCustomError(SAID, "{text}", {"text": said})

    @property
    def teacher_training(self) -> TrainSettings:
        """The student's train settings with the teacher's own on top."""
        values = {**self.train.model_dump(), **self.teacher_train}
        return TrainSettings.checked(values, owner="teacher_train")


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dictionaries joined, the second winning."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping with dotted names: ``{"train": {"lr": 0.1}}`` is ``{"train.lr": 0.1}``."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found.update(flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value})
    return found


def read_toml(path: str | Path) -> dict[str, Any]:
    """The contents of a TOML file.

    Raises:
        SettingsError: the file is missing or is no TOML.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise SettingsError(f"Cannot read '{path}': {error.strerror}.") from None
    except ValueError as error:  # a path with a zero byte in it
        raise SettingsError(f"Cannot read {str(path)!r}: {error}.") from None
    try:
        found = tomllib.loads(content.decode())
        if not _within(found, 2 * DEEPEST):
            raise RecursionError
        return found
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"'{path}' is not valid TOML: {error}.") from None
    except (ValueError, RecursionError):  # what Python does not read
        reason = "a number in it has thousands of digits, or it is nested too deeply"
        raise SettingsError(f"'{path}' is not valid TOML: {reason}.") from None


def _within(value: Any, levels: int) -> bool:
    """Whether tables and lists are nested in no more levels than that."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels >= 0 and all(_within(item, levels - 1) for item in inner)


def parse_assignment(text: str) -> dict[str, Any]:
    """``"rkd.angle=50"`` as ``{"rkd": {"angle": 50}}``; the value is a TOML literal, else a string.

    Raises:
        SettingsError: there is no ``=``, or the name is empty or of more than :data:`DEEPEST` parts.
    """
    name, sign, value = text.partition("=")
    parts = [part.strip() for part in name.split(".")]
    if not sign or not all(parts) or len(parts) > DEEPEST:
        raise SettingsError(f"'{text}' is not an option. Write METHOD.OPTION=VALUE or train.OPTION=VALUE.")
    nested: Any = _literal(value.strip())
    for part in reversed(parts):
        nested = {part: nested}
    result: dict[str, Any] = nested
    return result


def from_assignments(texts: Sequence[str]) -> dict[str, Any]:
    """Several ``-o`` options as values of :class:`Settings`; what is no setting belongs to a method.

    Raises:
        SettingsError: with every option that cannot be read.
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
            near = did_you_mean(name, Settings.model_fields) or "Write METHOD.OPTION=VALUE."
            faults.append(f"There is no setting '{name}'. {near}")
            continue
        values = merge(values, assigned if name in Settings.model_fields else {"options": assigned})
    if faults:
        raise SettingsError("\n".join(faults))
    return values


def _literal(text: str) -> Any:
    try:
        found = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):  # no TOML, or more digits or brackets than Python reads
        return text
    return found["value"] if len(found) == 1 else text  # else a second line of it was read as another value
