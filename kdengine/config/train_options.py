"""The settings of a training as typed keyword arguments, so that editors complete them and type checkers check them.

A test keeps them in step with :class:`kdengine.config.settings.TrainSettings`.
"""

from __future__ import annotations

from typing import Literal, TypedDict

__all__ = ["TrainOptions"]


class TrainOptions(TypedDict, total=False):
    """Every setting of ``train`` but ``epochs`` and ``optimizer``, which are arguments of their own; see docs/training.md."""

    batch_size: int
    lr: float | None
    momentum: float
    weight_decay: float | None
    nesterov: bool
    schedule: Literal["cosine", "multistep", "constant"]
    milestones: tuple[float, ...]
    decay: float
    warmup_epochs: int | None
    clip_grad: float | None
    label_smoothing: float
    validation: float
    augment: str
    second_view: str
    augment_operations: int
    augment_magnitude: int
    crop_scale: float
    color_jitter: float
    erase: float
    mixup: float
    cutmix: float
    drop_last: bool | None
    balanced_sampling: bool
    class_weights: Literal["none", "balanced"] | tuple[float, ...]
    accumulate: int
    ema: float | None
    layer_decay: float | None
    decay_norms_and_biases: bool
    head_lr: float
    backbone_lr: float
    freeze: tuple[str, ...]
    compile: bool | Literal["default", "reduce-overhead", "max-autotune"]
    fold_teacher: bool
    checkpointing: bool
    patience: int | None
    keep_every: int | None
    log_every: int | None
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    channels_last: bool
    device: str
    strategy: str
    sync_batchnorm: bool
    workers: int
    reset_optimizer: bool
    save_minutes: float
