"""The launcher: each unit is a job of its own, submitted by submitit and requeued when it is preempted."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from kdengine import Demand, Launcher, LaunchError, Outcome, Resources, Unit
from kdplugin_slurm.jobs import Carry

__all__ = ["SlurmLauncher"]

TICK = 0.2
"""Seconds between two looks at all jobs, which ask the disk, not SLURM."""
TIMEOUTS = 1_000_000
"""How often a job may run out of time and be queued again; submitit lets it fail the fourth time."""


class SlurmLauncher(Launcher):
    """Jobs on a SLURM cluster, submitted from a machine that has sbatch."""

    name = "slurm"

    class Options(Launcher.Options):
        """Options of the launcher."""

        partition: str | None = None
        """Partition of the jobs."""
        time: int = Field(24 * 60, ge=1)
        """Minutes that a job may run; one that runs out of time saves, and goes on in a new job."""
        gpus: int | None = Field(None, ge=0)
        """GPUs of each job; lanes use the first of them. Left out, 1 if the lanes train on a GPU."""
        memory_gb: float | None = Field(None, gt=0)
        """Memory of each job. Left out, what the partition gives."""
        jobs: int = Field(4, ge=1)
        """Jobs at the same time, at most."""
        account: str | None = None
        """Account that is charged."""
        qos: str | None = None
        """Quality of service."""
        constraint: str | None = None
        """Features that the nodes must have."""
        additional: dict[str, str | int | bool] = Field(default_factory=dict)
        """Further parameters of sbatch, such as slurm.additional.reservation=NAME."""
        cluster: Literal["slurm", "local"] = "slurm"
        """Where jobs go; 'local' runs them on this machine, to try things out."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._executor: Any = None
        self._on_gpu = False
        self._stop = Path()
        self._jobs: dict[str, Any] = {}
        self._waiting: deque[Unit] = deque()
        self._ended: list[Outcome] = []

    def open(self, demand: Demand) -> None:
        """Find sbatch; nodes are looked at by the units themselves, when they begin.

        Raises:
            LaunchError: there is no SLURM here, or it does not take the options.
        """
        import submitit

        self._on_gpu = demand.device == "cuda"
        folder = Path(demand.folder) / "slurm"
        self._stop = folder / "stop"
        self._stop.unlink(missing_ok=True)
        try:
            cluster = self.options.cluster
            self._executor = submitit.AutoExecutor(folder, cluster=cluster, **{f"{cluster}_max_num_timeout": TIMEOUTS})
            self._executor.update_parameters(**self._parameters())
        except (RuntimeError, NameError, TypeError, ValueError) as error:
            text = " ".join(str(error).split()).rstrip(".")
            raise LaunchError(
                f"SLURM cannot be used here: {text}. Start the comparison on a machine from which sbatch submits jobs, and "
                "check the options with 'kdengine plugins show slurm'."
            ) from error

    def at_once(self, lanes: int) -> int:
        """The number of jobs at the same time."""
        return int(self.options.jobs)

    def resources(self, unit: Unit) -> Resources:
        """The same for each unit."""
        return Resources(self.threads or 1, float(self._gpus), unit.memory)

    def start(self, unit: Unit) -> None:
        """Submit a job, or keep the unit until another job has ended."""
        self._waiting.append(unit)
        self._hand_out()

    def wait(self, seconds: float) -> Sequence[Outcome]:
        """Look for jobs that have ended."""
        deadline = time.monotonic() + seconds
        while True:
            for name in [name for name, job in self._jobs.items() if job.done()]:
                self._ended.append(_outcome(name, self._jobs.pop(name)))
            self._hand_out()
            if self._ended or time.monotonic() >= deadline:
                ended, self._ended = self._ended, []
                return ended
            time.sleep(TICK)

    def cancel(self) -> None:
        """Withdraw the jobs that wait in the queue; the others see a file in the shared folder, and stop."""
        self._ended += [Outcome(unit.name, "stopped", "it had not begun") for unit in self._waiting]
        self._waiting.clear()
        self._stop.parent.mkdir(parents=True, exist_ok=True)
        self._stop.touch()
        for name, job in list(self._jobs.items()):
            if job.state in ("PENDING", "REQUEUED"):
                job.cancel()
                self._ended.append(Outcome(name, "stopped", "it had not begun"))
                del self._jobs[name]

    def close(self) -> None:
        """Cancel all jobs that are left."""
        self._waiting.clear()
        while self._jobs:
            _, job = self._jobs.popitem()
            job.cancel(check=False)

    @property
    def _gpus(self) -> int:
        given: int | None = self.options.gpus
        return int(self._on_gpu) if given is None else given

    def _parameters(self) -> dict[str, Any]:
        """The parameters of submitit; those that are not given are left to SLURM."""
        options = self.options
        own = {name: getattr(options, name) for name in ("partition", "account", "qos", "constraint")}
        slurm: dict[str, Any] = {f"slurm_{name}": value for name, value in own.items() if value is not None}
        if options.additional:
            slurm["slurm_additional_parameters"] = dict(options.additional)
        slurm |= {"mem_gb": options.memory_gb} if options.memory_gb is not None else {}
        slurm |= {"gpus_per_node": self._gpus} if self._gpus else {}
        return {"name": "kdengine", "timeout_min": options.time, "cpus_per_task": self.threads or 1, **slurm}

    def _hand_out(self) -> None:
        while self._waiting and len(self._jobs) < self.options.jobs:
            unit = self._waiting.popleft()
            self._jobs[unit.name] = self._executor.submit(Carry(unit.to_dict(), self.threads or 1, str(self._stop)))


def _outcome(name: str, job: Any) -> Outcome:
    from submitit.core.utils import FailedJobError, UncompletedJobError

    try:
        return Outcome(**job.result())
    except FailedJobError as error:
        return Outcome(name, "failed", f"its job {job.job_id} failed: {_last_line(error)}")
    except UncompletedJobError as error:  # killed, out of memory, or its node is gone
        return Outcome(name, "lost", f"its job {job.job_id} ended without a result: {_first_line(error)}")


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")


def _last_line(error: BaseException) -> str:
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), "no message")
