"""The contract of launchers."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field

from kdengine.config.strict import Strict, describe_fields
from kdengine.launchers.unit import Demand, Outcome, Resources, Unit

__all__ = ["Launcher"]


class Launcher(ABC):
    """Carries units of work to other processes or machines, and says what became of each.

    It neither retries nor orders units, and knows nothing of what they do: the engine does. Its methods are called from one
    thread: :meth:`open`, then :meth:`start` and :meth:`wait` in any order, perhaps :meth:`cancel`, and always :meth:`close`.

    Args:
        **options: those of its ``Options``; ``-o NAME.OPTION=VALUE`` on the command line.

    Attributes:
        name: what ``--on`` takes.
        options: its options.

    Raises:
        SettingsError: an option is unknown or invalid.
    """

    name: ClassVar[str]

    class Options(Strict):
        """Options of every launcher; derive from it to add some, each with a docstring, which is its help."""

        threads: int | None = Field(None, ge=1)
        """Threads of each unit on the CPU. Left out, OMP_NUM_THREADS, or else the launcher's choice."""
        lanes: int | None = Field(None, ge=1)
        """Lanes in a unit, at most. Left out, whole trials, or fewer if workers would be idle."""
        retries: int = Field(3, ge=0)
        """How often a unit is tried again whose worker was lost."""

    def __init__(self, **options: Any) -> None:
        self.options: Any = type(self).Options.checked(options, owner=self.name)

    @classmethod
    def describe(cls) -> dict[str, Any]:
        """Name, summary, and options with default, type and help, as plain data."""
        summary = (cls.__doc__ or "").strip().partition("\n")[0]
        return {"name": cls.name, "summary": summary, "options": describe_fields(cls.Options)}

    @property
    def threads(self) -> int | None:
        """The threads of each unit, if the user chose them."""
        given: int | None = self.options.threads
        from_environment = os.environ.get("OMP_NUM_THREADS", "")
        return given or (int(from_environment) if from_environment.isdecimal() and int(from_environment) > 0 else None)

    @abstractmethod
    def open(self, demand: Demand) -> None:
        """Connect to the workers, and refuse those that are not fit for the job, before any unit is started.

        Raises:
            LaunchError: there is no worker, or one is not fit; names it and says why.
        """

    @abstractmethod
    def at_once(self, lanes: int) -> int:
        """How many units of so many lanes can run at the same time, at least 1."""

    @abstractmethod
    def resources(self, unit: Unit) -> Resources:
        """What a unit would get."""

    @abstractmethod
    def start(self, unit: Unit) -> None:
        """Take a unit and return at once; it runs as soon as there is room. The same unit may come again once it has ended."""

    @abstractmethod
    def wait(self, seconds: float) -> Sequence[Outcome]:
        """The units that have ended since the last call, each once; waits up to so many seconds for the first."""

    @abstractmethod
    def cancel(self) -> None:
        """Drop the units that have not begun, ask all others to save and stop, and return at once.

        Every unit still gets its outcome from :meth:`wait`: ``stopped``, unless it ended by itself in the meantime.
        """

    @abstractmethod
    def close(self) -> None:
        """Free everything; units that still run are ended by force. May be called twice, and before :meth:`open`."""
