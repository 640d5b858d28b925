"""Which of several processes this one is: what ``torchrun`` and Slurm's ``srun`` say in the environment.

The variables are those that https://pytorch.org/docs/stable/elastic/run.html and https://slurm.schedmd.com/srun.html
describe under "Environment variables" and "Output environment variables".
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment

from kdengine.errors import SettingsError

__all__ = ["Launch", "LaunchEnvironment"]

LOOPBACK = "127.0.0.1"
TORCH_PORT = 29_500
"""The port that torch meets at where nothing says another."""


@dataclass(frozen=True)
class Launch:
    """How this process was started: alone, or with others that train together.

    Attributes:
        processes: number of processes on all nodes.
        rank: this process's number among them, from 0.
        local_rank: its number on this node, from 0.
        local_processes: number of processes on this node; nodes may have different numbers.
        address: where the first process can be reached.
        port: the port on which it listens.
        may_hide_gpus: whether the launcher may show each process only its own GPU.
    """

    processes: int = 1
    rank: int = 0
    local_rank: int = 0
    local_processes: int = 1
    address: str = LOOPBACK
    port: int = TORCH_PORT
    may_hide_gpus: bool = False

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Launch:
        """What the environment says; ``torchrun`` goes before ``srun``, which may have started it.

        Raises:
            SettingsError: a variable is not a number, or a rank lies outside the number of processes.
        """
        if "RANK" in environment:
            launch = cls._torchrun(environment)
        elif "SLURM_PROCID" in environment and "SLURM_STEP_ID" in environment:
            launch = cls._srun(environment)
        elif _number(environment, ("WORLD_SIZE",), 1) > 1:
            raise SettingsError(
                f"WORLD_SIZE is {environment['WORLD_SIZE']}, but RANK is not set, so this process does not know which of them "
                "it is. Start it with torchrun or srun, or unset WORLD_SIZE to run one process."
            )
        else:  # also the shell or batch script of a Slurm allocation: it knows SLURM_NTASKS, but is no task of a step
            launch = cls()
        if not 0 <= launch.rank < launch.processes:
            raise SettingsError(
                f"The environment gives this process the rank {launch.rank} of {launch.processes} processes, but ranks count "
                f"from 0 to {launch.processes - 1}. Set RANK and WORLD_SIZE (or unset both), or start it with torchrun or srun."
            )
        return launch

    @classmethod
    def _torchrun(cls, environment: Mapping[str, str]) -> Launch:
        processes = _number(environment, ("WORLD_SIZE",), 1)
        return cls(
            processes=processes,
            rank=_number(environment, ("RANK",), 0),
            local_rank=_number(environment, ("LOCAL_RANK", "RANK"), 0),
            local_processes=_number(environment, ("LOCAL_WORLD_SIZE",), processes),
            address=environment.get("MASTER_ADDR", LOOPBACK),
            port=_number(environment, ("MASTER_PORT",), TORCH_PORT),
        )

    @classmethod
    def _srun(cls, environment: Mapping[str, str]) -> Launch:
        processes = _number(environment, ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"), 1)
        nodes = _number(environment, ("SLURM_STEP_NUM_NODES", "SLURM_NNODES"), 1)
        names = ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST")
        listed = next((environment[name] for name in names if name in environment), LOOPBACK)
        # all tasks of a step must agree on the port, and two steps on one node must not
        port = 15_000 + (_number(environment, ("SLURM_JOB_ID",), 0) + 7 * _number(environment, ("SLURM_STEP_ID",), 0)) % 10_000
        return cls(
            processes=processes,
            rank=_number(environment, ("SLURM_PROCID",), 0),
            local_rank=_number(environment, ("SLURM_LOCALID",), 0),
            local_processes=_tasks_on_this_node(environment, processes),
            address=environment.get("MASTER_ADDR")
            or (LOOPBACK if nodes == 1 else SLURMEnvironment.resolve_root_node_address(listed)),
            port=_number(environment, ("MASTER_PORT",), port),
            may_hide_gpus=True,
        )

    def gpu(self, visible: int) -> int:
        """Which of the GPUs that this process sees is its own."""
        return 0 if self.may_hide_gpus and visible == 1 else self.local_rank

    def threads(self) -> int:
        """This process's share of the CPUs that it may run on."""
        affinity = getattr(os, "sched_getaffinity", None)  # not on every system
        cpus = len(affinity(0)) if affinity else os.cpu_count() or 1
        return max(1, cpus // self.local_processes)


class LaunchEnvironment(ClusterEnvironment):
    """A launch in the form that Fabric asks for.

    Fabric's own environments need the same number of processes on every node, and the one for Slurm refuses ``--ntasks``.
    This one presents each process as a node of its own, with one device.
    """

    def __init__(self, launch: Launch) -> None:
        super().__init__()
        self.launch = launch

    @property
    def creates_processes_externally(self) -> bool:
        """Always: the launcher starts the processes."""
        return True

    @property
    def main_address(self) -> str:
        """Where the first process can be reached."""
        return self.launch.address

    @property
    def main_port(self) -> int:
        """The port on which it listens."""
        return self.launch.port

    @staticmethod
    def detect() -> bool:
        """Never: it is given to Fabric explicitly."""
        return False

    def world_size(self) -> int:
        """Number of processes."""
        return self.launch.processes

    def set_world_size(self, size: int) -> None:
        """Ignored: the launcher has decided it."""

    def global_rank(self) -> int:
        """This process's number among them."""
        return self.launch.rank

    def set_global_rank(self, rank: int) -> None:
        """Ignored: the launcher has decided it."""

    def local_rank(self) -> int:
        """The only process of its node."""
        return 0

    def node_rank(self) -> int:
        """A node for each process."""
        return self.launch.rank


def _tasks_on_this_node(environment: Mapping[str, str], processes: int) -> int:
    """Slurm lists the tasks of each node in the form ``4(x2),3``: two nodes with 4, one with 3."""
    listed = environment.get("SLURM_STEP_TASKS_PER_NODE", environment.get("SLURM_TASKS_PER_NODE", ""))
    counts = [int(tasks) for tasks, nodes in re.findall(r"(\d+)(?:\(x(\d+)\))?", listed) for _ in range(int(nodes or 1))]
    node = _number(environment, ("SLURM_NODEID",), 0)
    return counts[node] if node < len(counts) else processes


def _number(environment: Mapping[str, str], names: tuple[str, ...], default: int) -> int:
    """The first of some variables that is set."""
    name = next((name for name in names if name in environment), None)
    if name is None:
        return default
    try:
        return int(environment[name])
    except ValueError:
        raise SettingsError(
            f"The environment variable {name} must be a whole number, got '{environment[name]}'. It is set by what starts the "
            "processes, torchrun or srun: start the run with one of them, or unset the variable."
        ) from None
