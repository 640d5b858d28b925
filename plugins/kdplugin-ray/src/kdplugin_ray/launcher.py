"""The launcher: units are tasks of Ray Core, each carried out by a process of its own beside Ray's."""

from __future__ import annotations

import math
import os
import signal
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from kdengine import Demand, Launcher, LaunchError, Outcome, Resources, Unit
from kdplugin_ray.tasks import carry

__all__ = ["RayLauncher"]

SMALL_STORE = 80 * 2**20
"""Bytes of the object store of a local cluster: units and outcomes are a few lines of text."""


class RayLauncher(Launcher):
    """Tasks on a Ray cluster, or on this machine where there is none."""

    name = "ray"

    class Options(Launcher.Options):
        """Options of the launcher."""

        address: str | None = None
        """Address of a running cluster, or 'auto'. Left out, RAY_ADDRESS, or else a new one on this machine."""
        gpus_per_lane: float | None = Field(None, gt=0, le=1)
        """GPUs for each lane of a unit, such as 0.25, but never more than one for a unit. Left out, one for each unit."""
        workers: int | None = Field(None, ge=1)
        """Units at the same time, at most. Left out, as many as the cluster has CPUs or GPUs for."""
        connect_seconds: float = Field(120.0, gt=0)
        """How long to wait for the cluster, and for each of its machines to answer."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._tasks: dict[Any, Unit] = {}
        self._waiting: list[Unit] = []
        self._ended: list[Outcome] = []
        self._carry: Any = None
        self._began_here = False
        self._on_gpu = False
        self._has: Mapping[str, float] = {}

    def open(self, demand: Demand) -> None:
        """Connect to the cluster, and ask every machine of it whether it is fit for the work.

        Raises:
            LaunchError: the cluster cannot be reached, has no GPU where one is needed, or a machine is not fit.
        """
        self._on_gpu = demand.device == "cuda" or self.options.gpus_per_lane is not None
        self._connect()
        import ray

        self._has = ray.cluster_resources()
        if self._on_gpu and not self._has.get("GPU"):
            raise LaunchError(
                "The Ray cluster has no GPU, but the lanes would train on one. Add a node that has one, or train on the CPU: "
                "--device cpu, and no ray.gpus_per_lane."
            )
        self._ask_all(demand)

    def at_once(self, lanes: int) -> int:
        """As many as there are CPUs and GPUs for."""
        rooms = [self._has.get("CPU", 1.0) / self._threads]
        if self._on_gpu:
            share = self._gpus(lanes)
            rooms.append(self._has.get("GPU", 0.0) * (math.floor(1 / share) if share < 1 else 1 / share))
        fits = max(1, math.floor(min(rooms)))
        return fits if self.options.workers is None else min(fits, int(self.options.workers))

    def resources(self, unit: Unit) -> Resources:
        """Threads, which Ray counts as CPUs, and the share of a GPU."""
        return Resources(self._threads, self._gpus(unit.lanes) if self._on_gpu else 0.0, unit.memory)

    def start(self, unit: Unit) -> None:
        """Hand the unit to Ray, or keep it until there is room."""
        self._waiting.append(unit)
        self._hand_out()

    def wait(self, seconds: float) -> Sequence[Outcome]:
        """The outcomes that Ray has; a task that died with its process or its node is lost."""
        import ray

        if self._tasks and not self._ended:
            ready, _ = ray.wait(list(self._tasks), num_returns=1, timeout=seconds)
            if ready:
                more, _ = ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=0)
                self._ended += [self._outcome(task, self._tasks.pop(task)) for task in dict.fromkeys([*ready, *more])]
        elif not self._ended:
            time.sleep(seconds)
        self._hand_out()
        ended, self._ended = self._ended, []
        return ended

    def cancel(self) -> None:
        """Interrupt all tasks; those that have begun let their unit save and stop."""
        import ray

        self._ended += [Outcome(unit.name, "stopped", "it had not begun") for unit in self._waiting]
        self._waiting.clear()
        for task in self._tasks:
            ray.cancel(task, force=False)

    def close(self) -> None:
        """End what still runs, and leave the cluster; one that was started here ends."""
        import ray

        self._waiting.clear()
        if ray.is_initialized():
            for task in self._tasks:
                ray.cancel(task, force=True)
            if self._began_here:
                ray.shutdown()
        self._tasks.clear()
        self._began_here, self._carry = False, None

    @property
    def _threads(self) -> int:
        return self.threads or 1

    def _gpus(self, lanes: int) -> float:
        """The share of a GPU for so many lanes."""
        each = self.options.gpus_per_lane
        return 1.0 if each is None else min(1.0, lanes * float(each))

    def _connect(self) -> None:
        import ray

        if ray.is_initialized():
            return
        before = signal.getsignal(signal.SIGTERM)
        common: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}
        address = self.options.address or os.environ.get("RAY_ADDRESS")
        new = {} if address else {"include_dashboard": False, "object_store_memory": SMALL_STORE}
        try:
            _knock_at(address or "")
            ray.init(address=address or "local", **new, **common)
        except (OSError, ValueError, RuntimeError) as error:
            where = address or "on this machine"
            text = " ".join(str(error).split()).rstrip(".")
            raise LaunchError(
                f"The Ray cluster '{where}' cannot be reached: {text}. Start one with 'ray start --head', and name its address "
                "with -o ray.address=HOST:6379, or leave the address out to use this machine."
            ) from error
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, before)  # Ray would exit at once, before anything is saved
        self._began_here = True

    def _ask_all(self, demand: Demand) -> None:
        """Ask each machine, through a task that must run there."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        nodes = [node for node in ray.nodes() if node["Alive"]]
        useful = [node for node in nodes if node["Resources"].get("CPU")]
        largest = max((float(node["Resources"]["CPU"]) for node in useful), default=0.0)
        if useful and largest < self._threads:
            raise LaunchError(
                f"No machine of the Ray cluster has {self._threads} CPUs for the threads of a unit, at most {largest:g}. "
                f"Give fewer threads: -o ray.threads={max(1, int(largest))}."
            )
        asked = {}

        def look(probe: str, expected: dict[str, Any]) -> list[str]:  # goes by its code: this package may be missing there
            known: dict[str, Any] = {}
            exec(probe, known)
            faults: list[str] = known["unfit"](expected)
            return faults

        for node in useful:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            task = ray.remote(look).options(num_cpus=0, max_retries=0, scheduling_strategy=there)
            asked[task.remote(demand.probe, dict(demand.expected))] = str(node["NodeManagerHostname"])
        if not asked:
            raise LaunchError("The Ray cluster has no machine with a CPU for tasks. Add one: ray start --address=HOST:6379.")
        ready, late = ray.wait(list(asked), num_returns=len(asked), timeout=self.options.connect_seconds)
        if late:
            raise LaunchError(
                f"The worker on '{asked[late[0]]}' did not answer within {self.options.connect_seconds:g} s. Remove it from "
                "the cluster, or allow more time: -o ray.connect_seconds=600."
            )
        for task in ready:
            try:
                faults = ray.get(task)
            except ray.exceptions.RayError as error:
                raise LaunchError(f"The worker on '{asked[task]}' cannot run tasks: {_first_line(error)}") from error
            if faults:
                raise demand.refusal(asked[task], faults)

    def _hand_out(self) -> None:
        import ray

        most = self.options.workers
        while self._waiting and (most is None or len(self._tasks) < most):
            unit = self._waiting.pop(0)
            wanted = self.resources(unit)
            options = {"num_cpus": wanted.threads, "num_gpus": wanted.gpus, "max_retries": 0}
            if self._carry is None:
                self._carry = ray.remote(carry)  # once, so that a process of Ray keeps its worker from unit to unit
            task = self._carry.options(name=unit.name, **options).remote(unit.to_dict(), wanted.threads)
            self._tasks[task] = unit

    def _outcome(self, task: Any, unit: Unit) -> Outcome:
        import ray

        try:
            return Outcome(**ray.get(task))
        except ray.exceptions.TaskCancelledError:
            return Outcome(unit.name, "stopped", "it was asked to stop")
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, KeyboardInterrupt):
                return Outcome(unit.name, "stopped", "it was asked to stop")
            return Outcome(unit.name, "failed", _first_line(error.cause or error))
        except ray.exceptions.RayError as error:  # its process, its node, or its memory is gone
            return Outcome(unit.name, "lost", f"Ray lost it: {_first_line(error)}")


def _knock_at(address: str) -> None:
    """Fail at once where nobody listens, for which Ray would wait many minutes; other forms of addresses are left to Ray."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=10).close()


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
