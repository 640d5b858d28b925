"""Device, precision and backward passes: a thin layer over Lightning Fabric."""

from __future__ import annotations

import inspect
import os
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from kdengine.errors import KDError, SettingsError
from kdengine.machine import keep_freed_memory
from kdengine.methods.processes import ALONE, Processes
from kdengine.seeds import undisturbed
from kdengine.training.launch import Launch, LaunchEnvironment, meet
from kdengine.training.peers import Peers
from kdengine.transfer import in_channels_last

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
BUFFERS_BEFORE_FORWARDS = next(
    name
    for name in ("forward_sync_buffers", "broadcast_buffers")  # the second in earlier versions of torch
    if name in inspect.signature(DistributedDataParallel).parameters
)
"""What DDP calls sending the buffers of the first process to all before every forward."""
ASYNCHRONOUS = frozenset({"cuda"})
"""Devices that work behind the host, which loses time if it waits for a number."""
T = TypeVar("T")

__all__ = ["Runtime", "is_first_process", "native_bf16"]


def is_first_process() -> bool:
    """Whether this process has rank 0, and so writes and reports; true if it is the only one."""
    try:
        return Launch.of(os.environ).rank == 0
    except SettingsError:
        return True  # the run will be refused, and every process may report that


class _Autocast(MixedPrecision):
    """Autocast that leaves the images in float32, because distillers read them too, and scales no loss: lanes do that."""

    def __init__(self, device: str, dtype: torch.dtype) -> None:
        super().__init__("bf16-mixed", device)
        self.dtype = dtype

    def forward_context(self) -> torch.autocast:
        return torch.autocast(self.device, dtype=self.dtype)

    def convert_input(self, data: Any) -> Any:
        return data

    def convert_output(self, data: Any) -> Any:
        return data


class Runtime:
    """The device and precision that networks run in.

    Attributes:
        asynchronous: whether the device works behind the host: steps then never wait for it.
        peers: the processes of the run; None if it is the only one.
        launcher: the beginning of a command that starts as many processes; empty for one.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        precision: ``auto`` (bf16 if the hardware supports it natively, else fp32), ``fp32`` ``bf16`` or ``fp16``.
        channels_last: memory layout of images and convolutions.
        alone: run in this process only, even if ``torchrun`` or ``srun`` started several.

    Raises:
        SettingsError: the device is unavailable, or the environment describes the processes inconsistently.
    """

    def __init__(self, device: str = "auto", precision: str = "auto", channels_last: bool = True, alone: bool = False) -> None:
        self.channels_last = channels_last
        launch = Launch() if alone else Launch.of(os.environ)
        self.processes, self.launcher = launch.processes, launch.command
        try:
            with undisturbed(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Lightning warns about accelerators that are not used
                plugins: list[Any] = [LaunchEnvironment(launch)]  # else Fabric reads Slurm's variables and rejects some
                self.fabric = Fabric(accelerator=device, devices=1, plugins=plugins)
                accelerator = self.fabric.device.type
                self.precision = precision if precision != "auto" else _best_precision(accelerator)
                half = [_Autocast(accelerator, HALVES[self.precision])] if self.precision in HALVES else []
                if half or self.processes > 1:  # else it would be made again as it is, and search all packages again
                    self.fabric = Fabric(accelerator=device, plugins=plugins + half, **_together(launch, accelerator))
        except Exception as error:  # Lightning raises errors of many types
            raise SettingsError(
                f"train.device = '{device}' cannot be used: {str(error).rstrip('.!')}. Allowed: auto, cpu, cuda, mps."
            ) from error
        if self.processes > 1:
            meet(self.fabric, launch)
        self.device: torch.device = self.fabric.device
        if self.device.type == "cpu":
            keep_freed_memory()
        self.rank: int = self.fabric.global_rank if self.processes > 1 else 0
        self.asynchronous = self.device.type in ASYNCHRONOUS
        self.peers = Peers() if self.processes > 1 else None

    @property
    def is_main(self) -> bool:
        """Whether this process writes and reports."""
        return self.rank == 0

    def total(self, value: Tensor | float) -> float:
        """Sum a number over all processes."""
        return float(value) if self.processes == 1 else float(self.summed(torch.as_tensor(value, device=self.device)))

    def summed(self, value: Tensor) -> Tensor:
        """Sum a number [] over all processes, on the device: nothing waits for it."""
        if self.processes == 1:
            return value
        summed = self.fabric.all_reduce(value.detach().float().clone(), reduce_op="sum")
        assert isinstance(summed, Tensor)
        return summed

    def same(self, value: Any) -> Any:
        """Broadcast the main process's value to all processes."""
        return value if self.peers is None else self.peers.share(value)

    def from_first(self, function: Callable[[], T]) -> T:
        """What a function returns that only the main process calls; an error of the user is raised in all of them."""
        if self.peers is None:
            return function()
        value: Any = None
        try:
            value = function() if self.is_main else None
        except KDError as error:
            self.same(error)
            raise
        value = self.same(value)
        if isinstance(value, KDError):
            raise value
        returned: T = value
        return returned

    def now(self) -> float:
        """Seconds by a clock that all processes read alike at the same step, however far apart they are."""
        return time.monotonic() if self.peers is None else self.peers.seconds

    def stacked(self, value: Tensor) -> Tensor:
        """A tensor of the same shape in every process, from all of them: [...] -> [processes, ...]."""
        if self.processes == 1:
            return value[None]
        value = value.detach().contiguous()
        parts = [torch.empty_like(value) for _ in range(self.processes)]
        dist.all_gather(parts, value)
        return torch.stack(parts)

    def sharing(self, shares: tuple[int, ...]) -> Processes:
        """The processes that share a batch, as methods see them; ``shares`` are those of the batch."""
        return ALONE if self.processes == 1 else Processes(self.processes, shares, self.stacked)

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace floating-point tensors by their mean over all processes; in one message for each type."""
        for alike in _by_type(tensors) if self.processes > 1 else ():
            packed = _packed(alike)
            dist.all_reduce(packed)
            _unpack(packed / self.processes, alike)

    def take_first(self, tensors: Sequence[Tensor]) -> None:
        """Replace floating-point tensors by those of the main process; in one message for each type."""
        for alike in _by_type(tensors) if self.processes > 1 else ():
            packed = _packed(alike)
            dist.broadcast(packed, 0)
            _unpack(packed, alike)

    def place(self, model: nn.Module) -> nn.Module:
        """Move a network to the device and memory format of the run."""
        if self.channels_last:
            in_channels_last(model)
        return model.to(self.device)

    def layout(self, images: Tensor) -> Tensor:
        """Convert images [B, C, H, W] to the memory format of the run."""
        if self.channels_last and images.ndim == 4:
            return images.contiguous(memory_format=torch.channels_last)
        return images

    def setup(self, module: nn.Module) -> Any:
        """Wrap a trainable module so that its forward runs in the precision of the run, and its gradients meet, if several."""
        if self.processes > 1:
            self.take_first([buffer for buffer in module.buffers() if buffer.is_floating_point()])
            return self.fabric.setup_module(module)

        def forward(*inputs: Any) -> Any:
            # Fabric's wrapper does no more than this in a single process, but walks through what comes out
            with self.autocast():
                return module(*inputs)

        return forward

    def adding_up(self, wrapped: Any, enabled: bool) -> AbstractContextManager[Any]:
        """A context for a forward and its backward, whose gradients add up in each process and do not meet yet.

        Args:
            wrapped: what :meth:`setup` has returned.
            enabled: whether it is so; else they meet, with those that have added up before.
        """
        return self.fabric.no_backward_sync(wrapped, enabled) if self.processes > 1 else nullcontext()

    def setup_optimizer(self, optimizer: torch.optim.Optimizer) -> Any:
        """Wrap an optimizer; in a single process, it is the same."""
        return self.fabric.setup_optimizers(optimizer) if self.processes > 1 else optimizer

    def autocast(self) -> Any:
        """A context with the precision of the run, for networks that are not wrapped."""
        return self.fabric.autocast()

    def backward(self, loss: Tensor, retain_graph: bool = False) -> None:
        """Compute the gradients of a loss []."""
        if self.processes > 1:
            self.fabric.backward(loss, retain_graph=retain_graph)
        else:
            torch.autograd.backward(loss, retain_graph=retain_graph)

    def describe(self) -> dict[str, Any]:
        """Device and precision, for manifests."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else _processor()
        return {
            "device": str(self.device),
            "device_name": name,
            "precision": self.precision,
            "channels_last": self.channels_last,
            "threads": torch.get_num_threads(),
            "processes": self.processes,
        }


def _together(launch: Launch, accelerator: str) -> dict[str, Any]:
    """Fabric's arguments for a launch: one device per process."""
    if launch.processes == 1:
        return {"devices": 1}
    devices: int | list[int] = [launch.gpu(torch.cuda.device_count())] if accelerator == "cuda" else 1
    # a phase trains only what lies below its deepest tap, so some parameters get no gradient
    # buffers meet once an update, not before every forward: see training/statistics.py
    options: dict[str, Any] = {"find_unused_parameters": True, BUFFERS_BEFORE_FORWARDS: False}
    strategy = DDPStrategy(**options)
    return {"devices": devices, "num_nodes": launch.processes, "strategy": strategy}


def _by_type(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """The tensors of each type of numbers."""
    types = dict.fromkeys(tensor.dtype for tensor in tensors)
    return [[tensor for tensor in tensors if tensor.dtype == kind] for kind in types]


def _packed(tensors: Sequence[Tensor]) -> Tensor:
    """The values of tensors of one type in a row, [N], at least float32."""
    kind = torch.promote_types(tensors[0].dtype, torch.float32)
    return torch.cat([tensor.detach().to(kind).flatten() for tensor in tensors])


def _unpack(packed: Tensor, tensors: Sequence[Tensor]) -> None:
    """Write values in a row back to the tensors that they come from."""
    with torch.no_grad():
        for tensor, values in zip(tensors, packed.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(values.view(tensor.shape))


def _best_precision(device: str) -> str:
    return "bf16" if native_bf16(device) else "fp32"


def native_bf16(device: str) -> bool:
    """Whether the hardware multiplies bf16 natively; emulation would be slower than fp32."""
    if device == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)
    if device == "cpu":
        get_capabilities = getattr(torch.cpu, "get_capabilities", None)  # torch 2.10 and later
        features = get_capabilities() if get_capabilities else {}
        return bool(features.get("avx512_bf16") or features.get("amx_bf16") or features.get("bf16"))
    return False


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        import platform

        return platform.processor() or platform.machine()
