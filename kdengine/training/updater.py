"""The update of a lane's weights: gradients, optimizer and schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import nullcontext
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn

from kdengine.config.factories import OwnSchedule
from kdengine.config.settings import TrainSettings
from kdengine.errors import TrainingError
from kdengine.training.gradients import backward_clipped, clip_share, norm_of_gradients
from kdengine.training.guard import Guard, Verdict
from kdengine.training.lane_module import LaneModule
from kdengine.training.optimizer import begin_momentum, make_optimizer, make_schedule
from kdengine.training.parameter_groups import parameter_groups
from kdengine.training.runtime import Runtime
from kdengine.training.statistics import RunningStatistics, check_kept

__all__ = ["OptimizerStep", "Outcome"]

SMALLEST_SCALE = 1.0
"""Scale of an fp16 loss below which gradients that are not finite are a fault of the loss, not of the format."""
FROM_SETTINGS = ("lr", "weight_decay", "momentum", "nesterov", "foreach", "fused")
"""Optimizer options taken from the settings and the device rather than from a saved state."""


class Outcome(Enum):
    """What became of a step."""

    UPDATED = "updated"
    """On a device that works behind the host, unless :meth:`OptimizerStep.verdict` turns out otherwise."""
    POSTPONED = "postponed"
    """The weights are as they were: the gradients add up, or were too large for fp16."""
    REFUSED = "refused"
    """The weights are as they were, because a term or a gradient is not finite."""


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
        self.settings = settings.concrete
        self.runtime = runtime
        self.parameters = {name: value for name, value in module.named_parameters() if value.requires_grad}
        own = module.factories.make_optimizer(list(self.parameters.values()))
        self._bare = own or make_optimizer(parameter_groups(module, settings), settings)
        self._optimizer = runtime.setup_optimizer(self._bare)
        self._schedule: Any = None
        self._scaler = torch.amp.GradScaler(runtime.device.type) if runtime.precision == "fp16" else None
        if self._scaler is not None:
            begin_momentum(self._bare)
        # without its support, the scaler itself waits for the device before every update
        supported = self._scaler is None or getattr(self._bare, "_step_supports_amp_scaling", False)
        guarded = runtime.asynchronous and supported
        self._guard = Guard(self.parameters.values(), module.student.buffers()) if guarded else None
        self._statistics = RunningStatistics(module, runtime)
        self._steps = 1
        self._is_between = False
        self._is_scaled = False

    @property
    def lr(self) -> float:
        """The learning rate of the last step, without the factors of layers and of the classifier."""
        group = self._optimizer.param_groups[0]
        rate: float = group["lr"]
        return rate / (group.get("lr_scale") or 1.0)

    def begin_phase(self, updates: int | None, steps: int) -> None:
        """Set up the learning-rate schedule of a phase.

        Args:
            updates: steps in the phase; None to keep the current rate.
            steps: steps per epoch.
        """
        self._steps = steps
        self._schedule = None
        if updates is not None:
            own = self.module.factories.make_schedule(self._bare, self.settings.accumulate, steps)
            self._scale_rates(False)  # a schedule begins with the rate itself
            self._schedule = own or make_schedule(self._bare, self.settings, updates, steps)
        self._scale_rates(self._schedule is None)

    def _scale_rates(self, scaled: bool) -> None:
        """Apply the factors of layers and of the classifier to the rate, as a schedule would, or take them back."""
        if scaled != self._is_scaled:
            self._is_scaled = scaled
            for group in self._bare.param_groups:
                if "lr_scale" in group:
                    group["lr"] = self.settings.lr * (group["lr_scale"] if scaled else 1.0)

    def adds_up(self, done: int) -> bool:
        """Whether the gradients of the step after so many of the phase are only a part of those of an update."""
        place, count = self._place_in_update(done)
        return place < count - 1

    def update(self, terms: Mapping[str, Tensor], done: int, epoch: int) -> Outcome:
        """Add the gradients of a step, and update the weights if it is the last of an update, unless they are not finite.

        Args:
            terms: name -> weighted term [].
            done: earlier steps of the phase.
            epoch: epoch within the phase, from 0.

        Raises:
            TrainingError: the terms depend on nothing that is trained; or of several processes, each keeps something of its
                own images alone.
        """
        place, count = self._place_in_update(done)
        self._is_between = self.adds_up(done)
        if done % self._steps == 0:
            check_kept(self.module, self.runtime)
        if self._schedule is not None:
            self._schedule.step_update(done)
        total = torch.stack(list(terms.values())).sum() if len(terms) > 1 else next(iter(terms.values()))
        if not total.requires_grad:
            raise TrainingError(
                f"The loss ({', '.join(terms)}) depends on nothing that is trained. Does the student's forward run under "
                "torch.no_grad(), or does a method detach what it reads of the student?"
            )
        if place == 0:
            self._optimizer.zero_grad()
        self._backward(terms, total, epoch, count)
        if not self._is_between:  # after the backward, which reads them as the forward left them
            self._statistics.share()
        if self._scaler is not None:
            return self._update_scaled(total.detach(), last=not self._is_between)
        norm = norm_of_gradients(self.parameters.values())
        if not self._is_finite(total.detach() + norm):
            return Outcome.REFUSED
        if self._is_between:
            return Outcome.POSTPONED
        self._clip(norm)
        with nullcontext() if self._guard is None else self._guard.undoing():
            self._optimizer.step()
        return Outcome.UPDATED

    def verdict(self) -> Verdict | None:
        """Whether the steps so far were finite, on its way from the device; None if :meth:`update` itself has said so."""
        return None if self._guard is None else self._guard.verdict()

    def _is_finite(self, value: Tensor) -> bool:
        """Whether a number [] is finite in all processes; with a guard, which will know, it is taken to be."""
        if self._guard is None:
            return math.isfinite(self.runtime.total(value))
        self._guard.note(self.runtime.summed(value))
        return True

    def _place_in_update(self, done: int) -> tuple[int, int]:
        """Which of the steps of one update comes now, from 0, and how many there are: at the end of an epoch maybe fewer."""
        of_epoch, every = done % self._steps, self.settings.accumulate
        place = of_epoch % every
        return place, min(every, self._steps - of_epoch + place)

    def _update_scaled(self, total: Tensor, last: bool) -> Outcome:
        """Update with gradients that are scaled for fp16; too large ones are skipped, and the next are scaled down."""
        assert self._scaler is not None
        if not self._is_finite(total):
            return Outcome.REFUSED
        if not last:
            return Outcome.POSTPONED
        self._scaler.unscale_(self._bare)
        norm = norm_of_gradients(self.parameters.values())
        if self._guard is not None:
            return self._update_scaled_behind(norm, self._guard, self._scaler)
        finite = math.isfinite(self.runtime.total(norm))
        if finite:
            self._clip(norm)
        self._scaler.step(self._bare)
        self._scaler.update()
        if finite:
            return Outcome.UPDATED
        return Outcome.REFUSED if self._scaler.get_scale() < SMALLEST_SCALE else Outcome.POSTPONED

    def _update_scaled_behind(self, norm: Tensor, guard: Guard, scaler: torch.amp.GradScaler) -> Outcome:
        """The same on the device: the optimizer skips gradients that are too large, and the guard notes a scale too small."""
        self._clip(norm)
        with guard.undoing():
            scaler.step(self._bare)
        scaler.update()
        scale: Any = scaler._get_scale_async()  # get_scale() would wait for the device
        hopeless = ~self.runtime.summed(norm).isfinite() & (scale < SMALLEST_SCALE)
        guard.note(torch.where(hopeless, torch.nan, 0.0))
        return Outcome.UPDATED

    def _clip(self, norm: Tensor) -> None:
        if self.settings.clip_grad:
            nn.utils.clip_grads_with_norm_(self.parameters.values(), self.settings.clip_grad, norm)

    def state_dict(self) -> dict[str, Any]:
        """The state of the optimizer, with the gradients of an update that is not complete; timm's schedules need none."""
        state: dict[str, Any] = {**self._optimizer.state_dict(), "gradients": self._gradients() if self._is_between else {}}
        if self._scaler is not None:
            state["scaler"] = self._scaler.state_dict()
        if isinstance(self._schedule, OwnSchedule):
            state["schedule"] = self._schedule.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a saved state, except for the options in ``FROM_SETTINGS``, which the user may have changed."""
        current = [{name: group[name] for name in FROM_SETTINGS if name in group} for group in self._bare.param_groups]
        state = dict(state)
        self._load_gradients(state.pop("gradients"))
        scaler = state.pop("scaler", None)
        if self._scaler is not None and scaler is not None:
            self._scaler.load_state_dict(scaler)
        schedule = state.pop("schedule", None)
        if schedule is not None and isinstance(self._schedule, OwnSchedule):
            self._schedule.load_state_dict(schedule)
        scheduled = ("lr",) if self._schedule is not None else ()
        groups = [dict(group) for group in state["param_groups"]]
        for group, values in zip(groups, current, strict=False):  # torch refuses a state with another number of groups
            group.update({name: value for name, value in values.items() if name not in scheduled})
        # not afterwards: by these options, torch decides on which device each part of the state belongs
        self._optimizer.load_state_dict({**state, "param_groups": groups})

    def _gradients(self) -> dict[str, Tensor]:
        """The gradients by name of the parameter: what steps of an update that is not complete have added up so far."""
        return {name: value.grad.clone() for name, value in self.parameters.items() if value.grad is not None}

    def _load_gradients(self, gradients: Mapping[str, Tensor]) -> None:
        """Restore gradients, by name of the parameter."""
        for name, parameter in self.parameters.items():
            gradient = gradients.get(name)
            parameter.grad = None if gradient is None else gradient.to(parameter.device, copy=True)

    def _backward(self, terms: Mapping[str, Tensor], total: Tensor, epoch: int, count: int) -> None:
        """Add the gradients of the mean over ``count`` steps."""
        clipped = [value for name, value in terms.items() if self.module.clips(name)]
        if not clipped or len(clipped) == len(terms):
            self.runtime.backward(self._scaled(total, count))
            return
        before = self._gradients() if count > 1 else {}
        self._load_gradients({})
        free = [value for name, value in terms.items() if not self.module.clips(name)]
        kept, limited = (self._scaled(torch.stack(values).sum(), count) for values in (free, clipped))
        backward_clipped(self.runtime.backward, kept, limited, list(self.parameters.values()), clip_share(epoch))
        for name, gradient in before.items():
            added = self.parameters[name].grad
            self.parameters[name].grad = gradient if added is None else gradient + added

    def _scaled(self, loss: Tensor, count: int) -> Tensor:
        """A loss [] as it is differentiated."""
        loss = loss / count if count > 1 else loss
        return loss if self._scaler is None else self._scaler.scale(loss)
