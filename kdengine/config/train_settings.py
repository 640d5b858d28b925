"""The settings of a training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from kdengine.config.strict import MANY, Names, Strict

__all__ = ["OF_THE_STUDENT", "OPEN", "ConcreteTrain", "TrainSettings"]

OF_THE_STUDENT = {"freeze", "layer_decay", "head_lr", "backbone_lr", "checkpointing", "ema", "keep_every", "sync_batchnorm"}
"""Train settings that the teacher's own training does not take over, because they are about the parts of one network."""

OPEN = ("optimizer", "lr", "weight_decay", "warmup_epochs", "clip_grad")
"""Train settings that follow the network if they are left open."""

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


def _strategy(name: str) -> str:
    """DDP; to shard a teacher, its forward would have to end in all processes at once, but it ends at the deepest tap."""
    if name != "ddp":
        raise ValueError(
            "it must be 'ddp': every process holds teacher and student whole, because methods read inside networks, which is "
            "not possible where their weights are sharded. If the teacher is too large, try train.fold_teacher=false, "
            "train.precision=bf16, or a teacher store that 'kdengine teach' fills on a machine with room (docs/scaling.md)"
        )
    return name


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
    second_view: Annotated[str, AfterValidator(_augmentation)] = "auto"
    """Random changes of the second view of each image, which some methods need, written like 'augment'; 'auto' crops as
    'augment' does and adds 'rand-augment'."""
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
    compile: bool | Literal["default", "reduce-overhead", "max-autotune"] = False
    """Compile the forward passes of teacher and student with all that methods read inside them; or how: 'reduce-overhead' for
    small networks on a GPU, 'max-autotune' to search for the fastest kernels. A smaller last batch runs as it is."""
    fold_teacher: bool = True
    """Run the teacher with its batch normalisation folded into its convolutions; that is faster and agrees within rounding,
    also at the taps."""
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
    strategy: Annotated[str, AfterValidator(_strategy)] = "ddp"
    """How several processes train one network: 'ddp', each with both networks whole, is the only way."""
    sync_batchnorm: bool = False
    """Whether the student's batch normalisation takes its statistics over the whole batch that several processes share, and not
    over each one's part; on GPUs alone."""
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
