"""Optimizers and schedulers that the user makes: only Python can pass them, and the settings record their names."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kdengine.errors import SettingsError, cause

if TYPE_CHECKING:
    import torch

__all__ = ["NO_FACTORIES", "Factories", "OwnSchedule"]

PREFIX = "factory:"


class OwnSchedule:
    """A scheduler of the user's own, in the form of timm's; its ``step()`` is called after every update.

    Args:
        scheduler: any object with ``step()``.
        every: steps of training in an update; the last update of an epoch may have fewer.
        steps: steps of an epoch.
    """

    def __init__(self, scheduler: Any, every: int, steps: int) -> None:
        self.scheduler = scheduler
        self.every = every
        self.steps = steps
        self.updates = 0

    def step_update(self, done: int) -> None:
        """Catch up with the updates before a step; ``done`` steps are finished."""
        epochs, rest = divmod(done, self.steps)
        wanted = epochs * math.ceil(self.steps / self.every) + rest // self.every
        while self.updates < wanted:
            self.scheduler.step()
            self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to resume."""
        state = self.scheduler.state_dict() if hasattr(self.scheduler, "state_dict") else None
        return {"updates": self.updates, "scheduler": state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a saved state."""
        self.updates = state["updates"]
        if state["scheduler"] is not None:
            self.scheduler.load_state_dict(state["scheduler"])


@dataclass(frozen=True)
class Factories:
    """What makes optimizer and scheduler of a run.

    Attributes:
        optimizer: takes the list of trainable parameters and returns an optimizer.
        scheduler: takes the optimizer and returns an object with ``step()``.
    """

    optimizer: Callable[[list[Any]], torch.optim.Optimizer] | None = None
    scheduler: Callable[[torch.optim.Optimizer], Any] | None = None

    @property
    def names(self) -> dict[str, str]:
        """What the settings record: ``{"optimizer": "factory:make_adam"}``."""
        made = {"optimizer": self.optimizer, "scheduler": self.scheduler}
        return {role: f"{PREFIX}{_name(factory)}" for role, factory in made.items() if factory is not None}

    def check(self, recorded: Mapping[str, str]) -> None:
        """Refuse a run whose settings name other factories than were passed.

        Raises:
            SettingsError: names them.
        """
        if dict(recorded) != self.names:
            wanted = ", ".join(f"{role}=... ({name})" for role, name in recorded.items()) or "none"
            raise SettingsError(
                f"This run was made with factories that only Python can pass: {wanted}; got {self.names or 'none'}. Pass "
                "the same again: Engine.resume(FOLDER, optimizer=..., scheduler=...)."
            )

    def make_optimizer(self, parameters: Sequence[Any]) -> torch.optim.Optimizer | None:
        """The user's optimizer for some parameters, or None without a factory.

        Raises:
            SettingsError: the factory fails, or returns something else.
        """
        from torch.optim import Optimizer

        made = None if self.optimizer is None else _called("optimizer", self.optimizer, list(parameters))
        if made is not None and not isinstance(made, Optimizer):
            raise SettingsError(f"The optimizer factory returned a {type(made).__name__}; return a torch.optim.Optimizer.")
        if made is not None:
            _check_step("optimizer", made, "a closure, which computes the loss several times for one update")
        return made

    def make_schedule(self, optimizer: torch.optim.Optimizer, every: int, steps: int) -> OwnSchedule | None:
        """The user's scheduler for an optimizer, or None without a factory.

        Raises:
            SettingsError: the factory fails, or returns something without ``step()``.
        """
        made = None if self.scheduler is None else _called("scheduler", self.scheduler, optimizer)
        if made is not None and not callable(getattr(made, "step", None)):
            raise SettingsError(f"The scheduler factory returned a {type(made).__name__}, which has no step().")
        if made is not None:
            _check_step("scheduler", made, "a score, but it is called after every update, when there is none")
        return None if made is None else OwnSchedule(made, every, steps)


NO_FACTORIES = Factories()
"""Optimizer and schedule follow the settings."""


def _check_step(role: str, made: Any, needs: str) -> None:
    """Refuse what cannot be stepped without arguments."""
    try:
        inspect.signature(made.step).bind()
    except TypeError:
        raise SettingsError(f"The {role} {type(made).__name__} cannot be used: its step() needs {needs}.") from None
    except ValueError:  # callables not written in Python may have no signature
        return


def _called(role: str, factory: Callable[[Any], Any], argument: Any) -> Any:
    if not callable(factory):
        takes = "the list of parameters" if role == "optimizer" else "the optimizer"
        raise SettingsError(
            f"{role} = {type(factory).__name__}(...) is an object. Give a function that takes {takes} and returns one."
        )
    try:
        made = factory(argument)
    except Exception as error:  # the user's code may raise anything
        raise SettingsError(f"The {role} factory {_name(factory)} failed: {cause(error)}") from error
    if made is None:
        raise SettingsError(f"The {role} factory {_name(factory)} returned None. Return what it makes.")
    return made


def _name(factory: Callable[..., Any]) -> str:
    return str(getattr(factory, "__name__", type(factory).__name__))
