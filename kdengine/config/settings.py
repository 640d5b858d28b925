"""The typed settings of a run. Defaults, recipes, TOML files and ``-o`` all fill the same models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

from kdengine.config.validation import COMPLETE, faults_in, shown
from kdengine.config.values import merge, parse_assignment, split_names
from kdengine.errors import SettingsError, did_you_mean

__all__ = [
    "LOADERS",
    "MANY",
    "NEUTRAL",
    "ConcreteTrain",
    "InputSettings",
    "Names",
    "Settings",
    "Strict",
    "TrainSettings",
    "from_assignments",
]


LOADERS = "loaders"
"""The value of ``data`` when the user passed loaders of their own."""
NEUTRAL = ("train.device", "train.workers", "train.save_minutes", "train.keep_every", "train.log_every")
"""Settings that do not affect the trained weights, apart from rounding."""


class Strict(BaseModel):
    """Base of every settings and options model: frozen, unknown names are refused, the string under a field is its help."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )

    @classmethod
    def checked(cls, values: Mapping[str, Any], owner: str = "") -> Self:
        """Build the model, or report every fault at once.

        Args:
            values: field -> value.
            owner: prefix of the names in errors, such as ``rkd``.

        Raises:
            SettingsError: with one line per unknown name or invalid value.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise SettingsError("\n".join(faults_in(cls, values, error.errors(), owner))) from None


Names = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(split_names)]
"""Type of an option that lists names, such as taps or networks; on the command line they are separated by commas."""


OF_THE_STUDENT = {"freeze", "layer_decay", "head_lr", "backbone_lr", "checkpointing", "ema", "keep_every"}
"""Train settings that the teacher's own training does not take over, because they are about the parts of one network."""

CROPS = ("none", "crop", "crop-flip", "resized-crop")
POLICIES = ("rand-augment", "auto-augment", "trivial")


def _augmentation(text: str) -> str:
    """A crop, a policy, or both."""
    names = text.split("+")
    crops, policies = ([name for name in names if name in known] for known in (("auto", *CROPS), POLICIES))
    if len(crops) + len(policies) < len(names) or len(crops) > 1 or len(policies) > 1:
        allowed = ", ".join(("auto", *CROPS, *POLICIES))
        raise ValueError(
            f"it must be one of {allowed}, or a crop and a policy joined by '+', such as resized-crop+rand-augment"
        )
    return text


MANY = 10_000_000
"""Largest number of epochs or of images in a batch, so that a typo is refused before it overflows a counter of torch."""
FOLLOWS = BeforeValidator(lambda value: None if value == "auto" else value)
"""Marks a setting that may be left open, as None or "auto"; its value then follows the network."""


class TrainSettings(Strict):
    """How a network is trained."""

    epochs: int = Field(30, ge=1, le=MANY)
    """Epochs of the joint phase; phases that a method adds come on top."""
    batch_size: int = Field(128, ge=1, le=MANY)
    """Images in a batch."""
    optimizer: Annotated[str | None, FOLLOWS] = None
    """Name of any optimizer in timm; by default it follows the network: SGD for convolutional ones, AdamW for others."""
    lr: Annotated[float | None, Field(gt=0), FOLLOWS] = None
    """Initial learning rate; by default it follows the network, its weights and the optimizer."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum, for optimizers that use it."""
    weight_decay: Annotated[float | None, Field(ge=0), FOLLOWS] = None
    """Weight decay of every trainable parameter; by default it follows the network and the optimizer."""
    nesterov: bool = True
    """Nesterov momentum, for optimizer 'sgd'."""
    schedule: Literal["cosine", "multistep", "constant"] = "cosine"
    """Schedule of the learning rate in the joint phase; other phases keep it constant."""
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.3, 0.6, 0.8)
    """Fractions of the joint phase at which 'multistep' lowers the learning rate."""
    decay: float = Field(0.1, gt=0, lt=1)
    """Factor by which 'multistep' lowers the learning rate."""
    warmup_epochs: Annotated[int | None, Field(ge=0, le=MANY), FOLLOWS] = None
    """Epochs over which the learning rate rises linearly from a tenth of its value; by default it follows the network."""
    clip_grad: Annotated[float | None, Field(ge=0), FOLLOWS] = None
    """Maximum norm of the gradient over all parameters; 0 does not clip; by default it follows the network."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Label smoothing of the task loss."""
    validation: float = Field(0.0, ge=0, lt=1)
    """Fraction of the training images held out to choose the best epoch; with 0, the test images choose it."""
    augment: Annotated[str, AfterValidator(_augmentation)] = "auto"
    """Random changes of training images: a crop ('none', 'crop', 'crop-flip', 'resized-crop'), a policy ('rand-augment',
    'auto-augment', 'trivial'), or both joined by '+'; 'auto', and a policy alone, crop as suits the data."""
    augment_operations: int = Field(2, ge=1, le=10)
    """Operations that 'rand-augment' applies in turn to an image."""
    augment_magnitude: int = Field(9, ge=0, le=30)
    """Strength of the operations of 'rand-augment'."""
    crop_scale: float = Field(0.08, gt=0, le=1)
    """Smallest share of an image's area that 'resized-crop' keeps."""
    color_jitter: float = Field(0.0, ge=0, le=1)
    """Strength of random changes of brightness, contrast and saturation."""
    erase: float = Field(0.0, ge=0, le=1)
    """Probability of erasing a random rectangle of an image."""
    mixup: float = Field(0.0, ge=0)
    """Mix each image with another: alpha of the Beta distribution of the shares, such as 0.2; 0 for no mixup."""
    cutmix: float = Field(0.0, ge=0)
    """Paste a rectangle of another image into each: alpha of the Beta distribution of its share of the area, such as 1.0; 0 for
    no cutmix. With mixup as well, each batch draws one of the two."""
    drop_last: bool | None = None
    """Leave out a last batch that is smaller than the others; by default only where it would hold a single image, of which
    batch normalisation cannot take statistics."""
    balanced_sampling: bool = False
    """Draw training images with replacement so that every class is shown equally often."""
    class_weights: Literal["none", "balanced"] | tuple[Annotated[float, Field(ge=0)], ...] = "none"
    """Weights of the classes in the task loss: 'balanced' is inverse to their frequency; or a number for each class."""
    accumulate: int = Field(1, ge=1, le=MANY)
    """Batches whose gradients are averaged for one update; the batch size in effect is that many times as large."""
    ema: float | None = Field(None, gt=0, lt=1)
    """Decay of an exponential moving average of the student's weights, such as 0.999, which is measured and saved beside it."""
    layer_decay: float | None = Field(None, gt=0, le=1)
    """Factor on the learning rate from each layer of the network to the one before it, such as 0.75."""
    decay_norms_and_biases: bool = True
    """Whether weight decay applies to biases and to the weights of normalisation layers too."""
    head_lr: float = Field(1.0, ge=0)
    """Factor on the learning rate of the network's classifier."""
    backbone_lr: float = Field(1.0, ge=0)
    """Factor on the learning rate of all of the network but its classifier."""
    freeze: Names = ()
    """Modules of the network that are not trained, by path or as 'backbone', which is all but the classifier; their batch
    normalisation keeps its statistics."""
    compile: bool = False
    """Compile the forward passes in which no method reads a layer inside the network; the others run as they are."""
    checkpointing: bool = False
    """Recompute activations in the backward pass to save memory, for networks that offer it, such as timm's."""
    patience: int | None = Field(None, ge=1, le=MANY)
    """Stop after so many epochs without a better score; by default, train all epochs."""
    keep_every: int | None = Field(None, ge=1, le=MANY)
    """Keep the student's weights after every so many epochs, in files of their own."""
    log_every: int | None = Field(None, ge=1, le=MANY)
    """Write the loss terms after every so many steps to ``steps.jsonl``."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Precision of forward passes: 'auto' is bf16 on hardware with native support, else fp32; 'fp16' scales the loss of each
    student on its own. Losses are always fp32."""
    channels_last: bool = True
    """Whether forward passes use the channels-last memory layout; faster for convolutions on most hardware."""
    device: str = "auto"
    """'auto', 'cpu', 'cuda' or 'mps'."""
    workers: int = Field(2, ge=0, le=1024)
    """Processes that read images, for data that does not fit in memory."""
    reset_optimizer: bool = True
    """Whether each training phase starts with a fresh optimizer."""
    save_minutes: float = Field(10.0, ge=0)
    """Minutes between saves of the resumable state within an epoch; with 0, it is saved after epochs only."""

    @property
    def concrete(self) -> ConcreteTrain:
        """These settings with a value for everything; what is left open is as for a convolutional network from scratch."""
        return ConcreteTrain.model_validate(self.model_dump(exclude_none=True))


class ConcreteTrain(TrainSettings):
    """Train settings in which nothing is left open."""

    optimizer: str = "sgd"
    lr: float = 0.1
    weight_decay: float = 5e-4
    warmup_epochs: int = 0
    clip_grad: float = 0.0


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
    student_weights: str | None = None
    """File or run folder whose weights the student starts from; a head of another size starts fresh."""
    train: TrainSettings = TrainSettings()
    """How the student is trained."""
    teacher_train: dict[str, Any] = {}
    """Overrides of `train` for the teacher's own training."""
    teacher_input: InputSettings = InputSettings()
    """The images that the teacher receives."""
    student_input: InputSettings = InputSettings()
    """The images that the student receives."""
    factories: dict[str, str] = {}
    """Names of the optimizer and scheduler factories that were passed in Python; recorded, not to be set."""
    options: dict[str, dict[str, Any]] = {}
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

    @property
    def teacher_training(self) -> TrainSettings:
        """The settings of the teacher's own training: `train` but for what names the student's parts, and `teacher_train`."""
        values = {**self.train.model_dump(exclude=OF_THE_STUDENT), **self.teacher_train}
        return TrainSettings.checked(values, owner="teacher_train")


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
            near = did_you_mean(name, Settings.model_fields) or "Write METHOD.OPTION=VALUE."
            faults.append(f"There is no setting '{name}'. {near}")
            continue
        values = merge(values, assigned if name in Settings.model_fields else {"options": assigned})
    if faults:
        raise SettingsError("\n".join(faults))
    return values
