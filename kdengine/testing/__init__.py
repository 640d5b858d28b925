"""Tools for plugin authors: steps, tiny networks, processes in threads, and the contracts of methods, tasks and the rest."""

from kdengine.testing.contract import DistillerContract
from kdengine.testing.launcher_contract import LauncherContract
from kdengine.testing.networks import tiny_pair, vit_pair
from kdengine.testing.observer_contract import ObserverContract
from kdengine.testing.processes import in_processes
from kdengine.testing.steps import built, make_step
from kdengine.testing.task_contract import TaskContract

__all__ = [
    "DistillerContract",
    "LauncherContract",
    "ObserverContract",
    "TaskContract",
    "built",
    "in_processes",
    "make_step",
    "tiny_pair",
    "vit_pair",
]
