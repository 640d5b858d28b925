"""What lanes cost, so that units can be balanced before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kdengine.networks.flops import count_flops
from kdengine.networks.models import count_parameters
from kdengine.networks.network import Network
from kdengine.runs.lane_runs import Job, chosen
from kdengine.runs.lane_specs import name_of
from kdengine.training.memory import bytes_of

__all__ = ["Estimate", "Estimates"]

BOTH_WAYS = 3
"""Cost of a training step in forwards: the backward pass takes about two."""


@dataclass(frozen=True)
class Estimate:
    """What a lane costs.

    Attributes:
        cost: operations of its networks over its whole training, for each image of an epoch; connectors are not counted.
        teaching: those of the teachers that it would need alone.
        memory: bytes that it holds between batches.
        needs_teacher: whether it learns from a teacher.
    """

    cost: float = 0.0
    teaching: float = 0.0
    memory: int = 0
    needs_teacher: bool = False


class Estimates:
    """Estimates of lanes, each kind of which is built once: lanes that differ in options of methods alone cost the same."""

    def __init__(self) -> None:
        self._known: dict[Any, Estimate] = {}
        self._flops: dict[Any, float] = {}

    def of(self, job: Job) -> Estimate:
        """What a lane costs; nothing, if it cannot be built: its unit will say why."""
        spec = job.spec
        key = (spec.student, tuple(map(name_of, spec.plugins)), repr(sorted(spec.train.items())))
        if key not in self._known:
            try:
                self._known[key] = self._built(job)
            except Exception:  # methods raise errors of any type
                self._known[key] = Estimate()
        return self._known[key]

    def _built(self, job: Job) -> Estimate:
        session = job.session
        settings, distillers = chosen(job.spec, session)
        lane = session.lane(job.spec.label, session.twin(), distillers, settings)
        cost = teaching = 0.0
        for step in lane.chain:
            epochs = sum(phase.epochs for phase in step.phases)
            cost += BOTH_WAYS * epochs * self._forward(step.student)
            if any(phase.needs_teacher for phase in step.phases):
                teaching += epochs * sum(map(self._forward, step.teachers))
        return Estimate(cost, teaching, bytes_of(lane), lane.needs_teacher)

    def _forward(self, network: Network) -> float:
        """Operations of a forward of one image; for a network that cannot be measured, two for each parameter."""
        key = (network.name, network.input_size)
        if key not in self._flops:
            flops = count_flops(network.module, network.input_size)
            self._flops[key] = float(flops or 2 * count_parameters(network.module))
        return self._flops[key]
