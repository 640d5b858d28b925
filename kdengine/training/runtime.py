"""Device, precision and backward passes: a thin seam over Lightning Fabric."""

from __future__ import annotations

import os
import warnings
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor, nn

from kdengine.errors import SettingsError
from kdengine.seeds import undisturbed
from kdengine.training.launch import Launch, LaunchEnvironment

__all__ = ["Runtime", "is_first_process", "native_bf16"]


def is_first_process() -> bool:
    """Whether this process is the only one, or the first of those started together: the one that writes and reports."""
    try:
        return Launch.of(os.environ).rank == 0
    except SettingsError:
        return True  # the run will be refused, and somebody has to say so


class _BFloat16(MixedPrecision):
    """Forwards under autocast to bf16, that leaves the images as they are: distillers see them too, in float32."""

    def convert_input(self, data: Any) -> Any:
        return data

    def convert_output(self, data: Any) -> Any:
        return data


class Runtime:
    """Where and how precisely networks run.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        precision: ``auto`` (bf16 where the hardware has it natively, else fp32), ``fp32`` or ``bf16``.
        channels_last: memory layout of images and convolutions.
        alone: run in this process only, even if ``torchrun`` or ``srun`` started several.

    Raises:
        SettingsError: there is no such device, or the environment is wrong about the processes.
    """

    def __init__(self, device: str = "auto", precision: str = "auto", channels_last: bool = True, alone: bool = False) -> None:
        self.channels_last = channels_last
        launch = Launch() if alone else Launch.of(os.environ)
        self.processes = launch.processes
        try:
            with undisturbed(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Lightning advises on hardware that was not asked for
                plugins: list[Any] = [LaunchEnvironment(launch)]  # or Fabric looks for Slurm's variables, and refuses some
                accelerator = Fabric(accelerator=device, devices=1, plugins=plugins).device.type
                self.precision = precision if precision != "auto" else _best_precision(accelerator)
                plugins += [_BFloat16("bf16-mixed", accelerator)] if self.precision == "bf16" else []
                self.fabric = Fabric(accelerator=device, plugins=plugins, **_together(launch, accelerator))
                if self.processes > 1:
                    if "OMP_NUM_THREADS" not in os.environ:  # Fabric would take all CPUs, for each process
                        os.environ["OMP_NUM_THREADS"] = str(launch.threads())
                        torch.set_num_threads(launch.threads())
                    self.fabric.launch()
        except Exception as error:  # Lightning raises of many kinds
            raise SettingsError(f"train.device = '{device}' cannot be used: {error}. Allowed: auto, cpu, cuda, mps.") from error
        self.device: torch.device = self.fabric.device
        self.rank: int = self.fabric.global_rank if self.processes > 1 else 0

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes and reports."""
        return self.rank == 0

    def total(self, value: Tensor | float) -> float:
        """The sum of a number over all processes."""
        if self.processes == 1:
            return float(value)
        own = torch.as_tensor(value, device=self.device).detach().float().clone()
        summed = self.fabric.all_reduce(own, reduce_op="sum")
        assert isinstance(summed, Tensor)
        return float(summed)

    def same(self, value: Any) -> Any:
        """The main process's value, in every process."""
        return value if self.processes == 1 else self.fabric.broadcast(value)

    def place(self, model: nn.Module) -> nn.Module:
        """Move a network to the device, in the memory layout of the run."""
        if self.channels_last:
            model.to(memory_format=torch.channels_last)
        return model.to(self.device)

    def layout(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] in the memory layout of the run."""
        if self.channels_last and images.ndim == 4:
            return images.contiguous(memory_format=torch.channels_last)
        return images

    def setup(self, module: nn.Module) -> Any:
        """Wrap a trainable module, so that its forward runs in the precision of the run."""
        return self.fabric.setup_module(module)

    def setup_optimizer(self, optimizer: torch.optim.Optimizer) -> Any:
        """Wrap an optimizer."""
        return self.fabric.setup_optimizers(optimizer)

    def autocast(self) -> Any:
        """The precision of the run, for networks that are not wrapped."""
        return self.fabric.autocast()

    def backward(self, loss: Tensor, retain_graph: bool = False) -> None:
        """Gradients of a loss []."""
        self.fabric.backward(loss, retain_graph=retain_graph)

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
    """How Fabric shares the work among the processes of a launch: one device each."""
    if launch.processes == 1:
        return {"devices": 1}
    devices: int | list[int] = [launch.gpu(torch.cuda.device_count())] if accelerator == "cuda" else 1
    # a phase trains what lies below its deepest tap, so parameters without a gradient are no mistake
    strategy = DDPStrategy(find_unused_parameters=True)
    return {"devices": devices, "num_nodes": launch.processes, "strategy": strategy}


def _best_precision(device: str) -> str:
    return "bf16" if native_bf16(device) else "fp32"


def native_bf16(device: str) -> bool:
    """Whether the hardware multiplies bf16 natively; an emulation would be slower than fp32."""
    if device == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)
    if device == "cpu":
        get_capabilities = getattr(torch.cpu, "get_capabilities", None)  # from torch 2.10
        found = get_capabilities() if get_capabilities else {}
        return bool(found.get("avx512_bf16") or found.get("amx_bf16") or found.get("bf16"))
    return False


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        import platform

        return platform.processor() or platform.machine()
