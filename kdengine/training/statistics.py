"""Buffers that forwards write to, made the same in all processes of a run."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from kdengine.errors import TrainingError
from kdengine.storage.contents import contents
from kdengine.training.lane_module import LaneModule
from kdengine.training.runtime import Runtime

__all__ = ["RunningStatistics", "check_kept", "kept_by"]


class RunningStatistics:
    """The running statistics of normalisations in a lane, each process's of its own images: their mean is that of all.

    The mean over the processes of every running mean and variance is what one process has after the same batches, but for the
    differences between the means of the shares, which a variance within each share does not see. Buffers of the student that
    belong to no normalisation are those of the first process.

    Args:
        module: student and distillers.
        runtime: device and precision.
    """

    def __init__(self, module: LaneModule, runtime: Runtime) -> None:
        self.runtime = runtime
        norms = [part for part in module.modules() if isinstance(part, _NormBase)]
        self._norms = [part for part in norms if not isinstance(part, nn.SyncBatchNorm)]
        others = [part for part in module.student.modules() if not isinstance(part, _NormBase)]
        buffers = [buffer for part in others for buffer in part.buffers(recurse=False)]
        self._others = [buffer for buffer in buffers if buffer.is_floating_point()]

    def share(self) -> None:
        """Make them the same in all processes, after the forwards of an update."""
        if self.runtime.processes == 1:
            return
        norms = [part for part in self._norms if part.training]  # frozen ones keep what they have, to the last bit
        self.runtime.average([value for norm in norms for value in _running(norm)])
        self.runtime.take_first(self._others)


def kept_by(module: LaneModule) -> list[tuple[str, Tensor]]:
    """What the methods of a lane keep between steps: their buffers by name, apart from those of normalisations."""
    return [
        (".".join(filter(None, (key, path, name))), buffer)
        for key, method in module.methods.items()
        for path, part in method.named_modules()
        if not isinstance(part, _NormBase)
        for name, buffer in part.named_buffers(recurse=False)
    ]


def check_kept(module: LaneModule, runtime: Runtime) -> None:
    """Refuse a method whose buffers differ between processes: each would keep something of its own images alone.

    Args:
        module: student and distillers, after a step.
        runtime: device and precision.

    Raises:
        TrainingError: names method and buffer; in all processes at once.
    """
    kept = kept_by(module) if runtime.processes > 1 else []
    if not kept:
        return
    sums = runtime.stacked(
        torch.tensor([zlib.crc32(contents(buffer)) for _, buffer in kept], dtype=torch.int64, device=runtime.device)
    )
    differing = [name for (name, _), values in zip(kept, sums.T.tolist(), strict=True) if len(set(values)) > 1]
    if differing:
        raise TrainingError(
            f"{differing[0]} differs between the {runtime.processes} processes, so each would train with what it has "
            "seen of its own images alone. Run one process. To its author: update the buffer with "
            "step.processes.gathered(rows) or step.processes.stacked(value)."
        )


def _running(norm: _NormBase) -> list[Tensor]:
    """Its running mean and variance; nothing if it keeps none."""
    return [value for value in (norm.running_mean, norm.running_var) if value is not None]
