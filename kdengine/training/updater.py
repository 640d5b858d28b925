"""The update of a lane's weights: gradients, optimizer and schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kdengine.config.settings import TrainSettings
from kdengine.training.gradients import backward_clipped, clip_share, norm_of_gradients
from kdengine.training.lane_module import LaneModule
from kdengine.training.optimizer import make_optimizer, make_schedule
from kdengine.training.runtime import Runtime

__all__ = ["OptimizerStep"]

FROM_SETTINGS = ("lr", "weight_decay", "momentum", "nesterov")
"""Optimizer options taken from the settings rather than from a saved state."""


class OptimizerStep:
    """The optimizer and schedule of a module, and one update with them.

    Args:
        module: student and distillers.
        settings: training settings.
        runtime: device and precision.

    Attributes:
        parameters: name -> trainable parameter.
    """

    def __init__(self, module: LaneModule, settings: TrainSettings, runtime: Runtime) -> None:
        self.module = module
        self.settings = settings
        self.runtime = runtime
        self.parameters = {name: value for name, value in module.named_parameters() if value.requires_grad}
        self._bare = make_optimizer(list(self.parameters.values()), settings)
        self._optimizer = runtime.setup_optimizer(self._bare)
        self._schedule: Any = None

    @property
    def lr(self) -> float:
        """The learning rate of the last step."""
        rate: float = self._optimizer.param_groups[0]["lr"]
        return rate

    def begin_phase(self, updates: int | None, steps: int) -> None:
        """Set up the learning-rate schedule of a phase.

        Args:
            updates: steps in the phase; None to keep the current rate.
            steps: steps per epoch.
        """
        self._schedule = None if updates is None else make_schedule(self._bare, self.settings, updates, steps)

    def update(self, terms: Mapping[str, Tensor], done: int, epoch: int) -> bool:
        """Update the weights, unless the terms or their gradients are not finite.

        Args:
            terms: name -> weighted term [].
            done: earlier steps of the phase.
            epoch: epoch within the phase, from 0.

        Returns:
            whether the weights were updated.
        """
        if self._schedule is not None:
            self._schedule.step_update(done)
        total = torch.stack(list(terms.values())).sum() if len(terms) > 1 else next(iter(terms.values()))
        self._optimizer.zero_grad()
        self._backward(terms, total, epoch)
        norm = norm_of_gradients(self.parameters.values())
        if not math.isfinite(self.runtime.total(total.detach() + norm)):
            return False
        if self.settings.clip_grad is not None:
            nn.utils.clip_grads_with_norm_(self.parameters.values(), self.settings.clip_grad, norm)
        self._optimizer.step()
        return True

    def state_dict(self) -> dict[str, Any]:
        """The state of the optimizer; that of the schedule follows from the number of steps."""
        state: dict[str, Any] = self._optimizer.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved state, except for the options in ``FROM_SETTINGS``, which the user may have changed."""
        current = [{name: group[name] for name in FROM_SETTINGS if name in group} for group in self._bare.param_groups]
        self._optimizer.load_state_dict(state)
        for group, values in zip(self._bare.param_groups, current, strict=True):
            scheduled = ("lr",) if self._schedule is not None else ()
            group.update({name: value for name, value in values.items() if name not in scheduled})

    def _backward(self, terms: Mapping[str, Tensor], total: Tensor, epoch: int) -> None:
        clipped = [value for name, value in terms.items() if self.module.clips(name)]
        if not clipped or len(clipped) == len(terms):
            self.runtime.backward(total)
            return
        free = [value for name, value in terms.items() if not self.module.clips(name)]
        sums = torch.stack(free).sum(), torch.stack(clipped).sum()
        backward_clipped(self.runtime.backward, *sums, list(self.parameters.values()), clip_share(epoch))
