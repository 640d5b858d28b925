"""Test images whose targets are what the teacher makes of them, for tasks without any of their own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from kdengine.data.batches import Batch, Batches
from kdengine.data.datamodule import DataModule
from kdengine.runs.ready_teachers import Ensemble
from kdengine.runs.session import Session
from kdengine.training.runtime import Runtime

__all__ = ["measured_by_teacher"]


def measured_by_teacher(session: Session) -> DataModule:
    """The data of a session; where its task is measured by the teacher, the targets of test images are the teacher's outputs.

    Args:
        session: its teachers have their weights.
    """
    data = session.data
    if not session.task.measured_by_teacher or not session.teachers:
        return data
    networks = [teacher.network.preprocessed for teacher in session.teachers]
    network = networks[0] if len(networks) == 1 else Ensemble(networks, session.task)
    test, validation = (
        None if batches is None else _TaughtBatches(batches, network, session.runtime)
        for batches in (data.test, data.validation)
    )
    return replace(data, test=test, validation=validation)


class _TaughtBatches:
    """Batches with what a network says of their images in place of their targets; it is asked once.

    Args:
        batches: in the same order in every epoch.
        network: takes their images.
        runtime: device of the network, which is asked in float32.
    """

    def __init__(self, batches: Batches, network: nn.Module, runtime: Runtime) -> None:
        self.batches = batches
        self.network = network
        self.runtime = runtime
        self.outputs: list[Tensor] = []

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from the ``start``-th on."""
        for place, batch in enumerate(self.batches.epoch(number, 0)):
            if place == len(self.outputs):
                with torch.no_grad():
                    self.outputs.append(self.network(self.runtime.layout(batch.x)).float())
            if place >= start:
                yield replace(batch, y=self.outputs[place])
