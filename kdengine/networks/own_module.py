"""Checks of a network that the caller passed as a module, before anything runs."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from kdengine.errors import ModelError, cause
from kdengine.taps.probe import PROBE_BATCH
from kdengine.taps.twin import copy_to

__all__ = ["check_apart", "check_module"]


def check_module(module: nn.Module, role: str, size: tuple[int, int, int]) -> None:
    """Refuse a module that cannot be hooked, trained or given float32 images.

    Args:
        module: as the caller passed it; not changed.
        role: ``"student"``, ``"teacher"`` and so on.
        size: (C, H, W) of the images that it receives.

    Raises:
        ModelError: says what to do instead.
    """
    owner = f"The {role} {type(module).__name__}"
    if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        raise ModelError(
            f"{owner} spreads batches over devices, which the run does itself. Pass the network inside it, its .module, "
            "and start the run with torchrun to use several devices."
        )
    if isinstance(module, torch.jit.ScriptModule):
        raise ModelError(f"{owner} is TorchScript, which takes no hooks. Pass the nn.Module that it was made from.")
    if isinstance(module, torch.fx.GraphModule) and not _changes_mode(module):
        raise ModelError(f"{owner} comes from torch.export and cannot change to eval(). Pass the nn.Module that was exported.")
    tensors = dict([*module.named_parameters(), *module.named_buffers()])
    lazy = [name for name, tensor in tensors.items() if is_lazy(tensor)]
    if lazy:
        shape = ", ".join(map(str, size))
        raise ModelError(
            f"{owner} has parameters without a shape, such as '{lazy[0]}'. Run its lazy modules once before you pass it: "
            f"module(torch.zeros(1, {shape}))."
        )
    empty = [name for name, tensor in tensors.items() if tensor.is_meta]
    if empty:
        raise ModelError(
            f"{owner} has tensors without values, on the meta device, such as '{empty[0]}'. Load its weights before you pass "
            "it: module.load_state_dict(weights, assign=True)."
        )
    _check_precision(module, owner, size)


def check_apart(student: nn.Module, teachers: Mapping[str, nn.Module]) -> None:
    """Refuse a student that shares modules, or parameters to train, with a teacher.

    Args:
        student: the module to train.
        teachers: role -> module.

    Raises:
        ModelError: names what they share.
    """
    parts = {id(part) for part in student.modules()} | {id(value) for value in student.parameters() if value.requires_grad}
    for role, teacher in teachers.items():
        shared = [name for name, part in [*teacher.named_modules(), *teacher.named_parameters()] if id(part) in parts]
        if shared:
            what = f"share '{shared[0]}'" if shared[0] else "are the same object"
            raise ModelError(
                f"The student and the {role} {what}, so training the student would change the {role}. Make one of them a copy: "
                "copy.deepcopy(module)."
            )


def _changes_mode(module: nn.Module) -> bool:
    """Whether the mode of a module can be set at all."""
    try:
        module.train(module.training)
    except NotImplementedError:
        return False
    return True


def _check_precision(module: nn.Module, owner: str, size: tuple[int, int, int]) -> None:
    """Refuse weights of another precision, unless the module itself casts float32 images; a copy on the CPU tries that."""
    kinds = {value.dtype for value in module.parameters() if value.is_floating_point()} - {torch.float32}
    if not kinds:
        return
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=()):
            copy_to("cpu", module).eval()(torch.zeros(PROBE_BATCH, *size))
    except Exception as error:  # a model may fail with any exception
        kind = str(sorted(map(str, kinds))[0]).removeprefix("torch.")
        raise ModelError(
            f"{owner} has {kind} weights and does not accept float32 images ({cause(error)}). Convert it: module.float(); the "
            "run computes in train.precision whatever the weights are."
        ) from error
