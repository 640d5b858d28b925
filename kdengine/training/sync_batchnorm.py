"""Batch normalisation by the statistics of a whole batch that several processes share."""

from __future__ import annotations

from timm.layers import convert_sync_batchnorm
from torch import nn

from kdengine.errors import SettingsError
from kdengine.training.runtime import Runtime

__all__ = ["check_sync_batchnorm", "synchronise"]


def check_sync_batchnorm(runtime: Runtime) -> None:
    """Refuse devices on which torch's SyncBatchNorm does not train.

    Raises:
        SettingsError: says which do.
    """
    if runtime.processes > 1 and runtime.device.type != "cuda":
        raise SettingsError(
            "train.sync_batchnorm needs a GPU for each process, because torch's SyncBatchNorm trains nowhere else; this run "
            f"has {runtime.processes} processes on '{runtime.device.type}'. Leave it out: each process then normalises its "
            "part of a batch by that part, and running statistics are averaged over the processes."
        )


def synchronise(network: nn.Module, runtime: Runtime) -> None:
    """Let the batch normalisations inside a network share their statistics, if there are several processes.

    In evaluation, and with the same names of weights, the network computes what it did.

    Args:
        network: modified in place.
        runtime: device and number of processes.
    """
    if runtime.processes > 1:
        for name, child in network.named_children():
            network.add_module(name, convert_sync_batchnorm(child))
