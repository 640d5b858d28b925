"""The loop that keeps account of units: it starts them, hears how they end, and tries lost ones again."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from kdengine.dispatch.events import EventReader
from kdengine.errors import LaunchError
from kdengine.launchers.launcher import Launcher
from kdengine.launchers.unit import Outcome, Unit
from kdengine.training.signals import Stopped, listening

__all__ = ["Display", "Driver", "Planned"]

TICK = 0.25
"""Seconds between two looks at launcher and events."""
GRACE = 300.0
"""Seconds that units have to save their states once they are asked to stop."""


class Planned(Protocol):
    """What a unit is for."""

    def has_ended(self, outcome: Outcome) -> bool:
        """Whether all of it is done, or has failed for good, once its worker has ended so."""


class Display(Protocol):
    """Shows what becomes of units."""

    def say(self, text: str) -> None:
        """Show a line."""

    def tell(self, unit: str, event: Mapping[str, Any]) -> None:
        """Show what the worker of a unit says."""


Work = TypeVar("Work", bound=Planned)


@dataclass
class _Open(Generic[Work]):
    """A unit that has not ended."""

    planned: Work
    unit: Unit
    events: EventReader
    losses: int = 0


@dataclass
class Driver(Generic[Work]):
    """Carries units by a launcher until all have ended.

    Attributes:
        launcher: the launcher, which is open.
        progress: shows what the workers tell.
        give_up: called with a unit that fails for good, and the reason.
    """

    launcher: Launcher
    progress: Display
    give_up: Callable[[Work, str], None]
    _open: dict[str, _Open[Work]] = field(default_factory=dict, init=False)

    def run(self, units: Mapping[str, tuple[Work, Unit, Path]]) -> None:
        """Carry all units.

        Args:
            units: by name: the plan, what the launcher gets, and the file of events.

        Raises:
            Stopped: Ctrl-C or SIGTERM; every unit has saved its state.
            LaunchError: a worker is not fit for the work; all others were stopped.
        """
        with listening() as stop:
            for name, (planned, unit, events) in units.items():
                events.unlink(missing_ok=True)
                self._open[name] = _Open(planned, unit, EventReader(events))
                self.launcher.start(unit)
            while self._open:
                refused = [self._ended(outcome) for outcome in self._look()]
                reason = next(filter(None, refused), None)
                if reason is not None:
                    self._stop_all()
                    raise LaunchError(reason)
                if stop.asked:
                    self._stop_all()
                    raise Stopped

    def _look(self) -> list[Outcome]:
        outcomes = list(self.launcher.wait(TICK))
        for name, each in self._open.items():
            for event in each.events.new():
                self.progress.tell(name, event)
        return outcomes

    def _ended(self, outcome: Outcome) -> str | None:
        """Take note of an outcome; returns the reason if no worker should go on."""
        each = self._open[outcome.unit]
        if outcome.kind == "refused":
            del self._open[outcome.unit]
            return outcome.reason
        done = each.planned.has_ended(outcome)
        if outcome.kind in ("lost", "stopped") and not done:
            self._lost(each, outcome)
            return None
        del self._open[outcome.unit]
        if not done:
            reason = outcome.reason or "its unit ended without doing it"
            self.progress.say(f"{outcome.unit}: failed: {reason}")
            self.give_up(each.planned, reason)
        return None

    def _lost(self, each: _Open[Work], outcome: Outcome) -> None:
        """Try a unit again, if that was not done often enough."""
        each.losses += 1
        most = int(self.launcher.options.retries)
        if each.losses <= most:
            self.progress.say(
                f"{outcome.unit}: lost ({outcome.reason}); retry {each.losses} of {most} goes on where it stopped"
            )
            self.launcher.start(each.unit)
            return
        del self._open[outcome.unit]
        times = f"{each.losses} times" if each.losses > 1 else "once"
        reason = f"its unit was given up after it was lost {times}: {outcome.reason}"
        self.progress.say(f"{outcome.unit}: {reason}")
        self.give_up(each.planned, reason)

    def _stop_all(self) -> None:
        """Let every unit save its state; a second signal ends that at once."""
        self.launcher.cancel()
        deadline = time.monotonic() + GRACE
        while self._open and time.monotonic() < deadline:
            for outcome in self._look():
                self._open.pop(outcome.unit, None)
