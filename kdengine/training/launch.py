"""Rank and number of processes, from the environment variables of ``torchrun`` and Slurm's ``srun``.

The variables are documented under "Environment variables" at https://pytorch.org/docs/stable/elastic/run.html and under
"Output environment variables" at https://slurm.schedmd.com/srun.html.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment

from kdengine.errors import SettingsError
from kdengine.machine import cores
from kdengine.seeds import undisturbed

__all__ = ["Launch", "LaunchEnvironment", "meet"]

LOOPBACK = "127.0.0.1"
TORCH_PORT = 29_500
"""The default rendezvous port of torch."""


@dataclass(frozen=True)
class Launch:
    """How this process was started: alone, or as one of several that train together.

    Attributes:
        processes: number of processes on all nodes.
        rank: global rank of this process, from 0.
        local_rank: its rank on this node, from 0.
        local_processes: number of processes on this node, which may differ between nodes.
        address: address of the process with rank 0.
        port: port that it listens on.
        may_hide_gpus: whether the launcher may make only one GPU visible to each process.
        command: what stands before ``kdengine`` in a command that starts as many processes again; empty for one process.
    """

    processes: int = 1
    rank: int = 0
    local_rank: int = 0
    local_processes: int = 1
    address: str = LOOPBACK
    port: int = TORCH_PORT
    may_hide_gpus: bool = False
    command: str = ""

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Launch:
        """Read the environment; ``torchrun`` takes precedence over ``srun``, which may have started it.

        Raises:
            SettingsError: a variable is not a number, or the rank is out of range.
        """
        if "RANK" in environment:
            launch = cls._torchrun(environment)
        elif "SLURM_PROCID" in environment and "SLURM_STEP_ID" in environment:
            launch = cls._srun(environment)
        elif _number(environment, ("WORLD_SIZE",), 1) > 1:
            raise SettingsError(
                f"WORLD_SIZE is {environment['WORLD_SIZE']}, but RANK is not set, so this process does not know its rank. "
                "Start it with torchrun or srun, or unset WORLD_SIZE to run one process."
            )
        else:  # includes the shell of a Slurm allocation, which sees SLURM_NTASKS without being a task of a step
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
        local = _number(environment, ("LOCAL_WORLD_SIZE",), processes)
        nodes = (
            f"--nnodes {environment['GROUP_WORLD_SIZE']} ... "
            if local < processes and "GROUP_WORLD_SIZE" in environment
            else ""
        )
        return cls(
            processes=processes,
            rank=_number(environment, ("RANK",), 0),
            local_rank=_number(environment, ("LOCAL_RANK", "RANK"), 0),
            local_processes=local,
            address=environment.get("MASTER_ADDR", LOOPBACK),
            port=_number(environment, ("MASTER_PORT",), TORCH_PORT),
            command=f"torchrun {nodes}--nproc-per-node {local} -m " if processes > 1 else "",
        )

    @classmethod
    def _srun(cls, environment: Mapping[str, str]) -> Launch:
        processes = _number(environment, ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"), 1)
        nodes = _number(environment, ("SLURM_STEP_NUM_NODES", "SLURM_NNODES"), 1)
        names = ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST")
        listed = next((environment[name] for name in names if name in environment), LOOPBACK)
        # tasks of one step must agree on the port; two steps on one node must differ
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
            command=f"srun --ntasks {processes} " if processes > 1 else "",
        )

    def gpu(self, visible: int) -> int:
        """Index of this process's GPU among the visible ones."""
        return 0 if self.may_hide_gpus and visible == 1 else self.local_rank

    def threads(self) -> int:
        """This process's share of the available CPUs."""
        return max(1, cores() // self.local_processes)


class LaunchEnvironment(ClusterEnvironment):
    """Adapts a launch to Fabric's interface.

    Fabric's own environments require the same number of processes on every node, and its Slurm environment rejects
    ``--ntasks``. This one presents each process as a separate node with one device.
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
        """Address of the process with rank 0."""
        return self.launch.address

    @property
    def main_port(self) -> int:
        """Port that it listens on."""
        return self.launch.port

    @staticmethod
    def detect() -> bool:
        """Never: it is passed to Fabric explicitly."""
        return False

    def world_size(self) -> int:
        """Number of processes."""
        return self.launch.processes

    def set_world_size(self, size: int) -> None:
        """Ignored: set by the launcher."""

    def global_rank(self) -> int:
        """Global rank of this process."""
        return self.launch.rank

    def set_global_rank(self, rank: int) -> None:
        """Ignored: set by the launcher."""

    def local_rank(self) -> int:
        """Always 0: each process is its own node."""
        return 0

    def node_rank(self) -> int:
        """The global rank: each process is its own node."""
        return self.launch.rank


def _tasks_on_this_node(environment: Mapping[str, str], processes: int) -> int:
    """Parse Slurm's list of tasks per node: ``4(x2),3`` means two nodes with 4 tasks and one with 3."""
    listed = environment.get("SLURM_STEP_TASKS_PER_NODE", environment.get("SLURM_TASKS_PER_NODE", ""))
    counts = [int(tasks) for tasks, nodes in re.findall(r"(\d+)(?:\(x(\d+)\))?", listed) for _ in range(int(nodes or 1))]
    node = _number(environment, ("SLURM_NODEID",), 0)
    return counts[node] if node < len(counts) else processes


def _number(environment: Mapping[str, str], names: tuple[str, ...], default: int) -> int:
    """The value of the first variable that is set."""
    name = next((name for name in names if name in environment), None)
    if name is None:
        return default
    try:
        return int(environment[name])
    except ValueError:
        raise SettingsError(
            f"The environment variable {name} must be a whole number, got '{environment[name]}'. It is set by torchrun "
            "or srun: start the run with one of them, or unset the variable."
        ) from None


def meet(fabric: Fabric, launch: Launch) -> None:
    """Connect this process with the others of the run.

    Raises:
        SettingsError: they do not find one another.
    """
    if "OMP_NUM_THREADS" not in os.environ:  # by default, every process would use all CPUs
        os.environ["OMP_NUM_THREADS"] = str(launch.threads())
        torch.set_num_threads(launch.threads())
    try:
        with undisturbed(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Lightning warns about accelerators that are not used
            fabric.launch()
    except Exception as error:  # torch raises errors of many types
        raise SettingsError(
            f"The {launch.processes} processes of this run cannot connect at {launch.address}:{launch.port}: "
            f"{str(error).rstrip('.!')}. Check that all were started, that they reach MASTER_ADDR, and that no other program "
            "uses MASTER_PORT."
        ) from error
