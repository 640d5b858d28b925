"""What can be carried to other processes: everything that has a name, so that it can be found or made there."""

from __future__ import annotations

import os
from collections.abc import Sequence

from kdengine.errors import LaunchError
from kdengine.methods.distiller import Distiller
from kdengine.progress import is_display
from kdengine.runs.assignment import Assignment
from kdengine.runs.lane_specs import LaneSpec
from kdengine.runs.session import Session

__all__ = ["carried_environment", "check_can_travel", "files_of"]

CARRIED = ("HF_DATASETS_OFFLINE", "HF_HOME", "HF_HUB_OFFLINE", "TORCH_HOME")
"""Variables that say where networks and data come from; keys and passwords do not travel."""


def check_can_travel(assignment: Assignment, session: Session, lanes: Sequence[LaneSpec]) -> None:
    """Refuse objects that exist in this process alone.

    Raises:
        LaunchError: names all of them.
    """
    faults = [f"the {role} was passed as a module" for role in assignment.modules]
    faults += ["the data was passed as an object"] if assignment.data is not None else []
    faults += ["you passed data loaders"] if session.data.own_loaders else []
    faults += ["optimizer or scheduler was passed as a function"] if assignment.factories.names else []
    faults += [f"{type(item).__name__} observes it as an object" for item in assignment.observers if not is_display(item)]
    for lane in lanes:
        objects = [plugin.name for plugin in lane.plugins if isinstance(plugin, Distiller)]
        faults += [f"the method '{name}' was passed as an object" for name in objects if not _is_installed(name, session)]
    if faults:
        raise LaunchError(
            f"Workers cannot get this comparison: {'; '.join(dict.fromkeys(faults))}. Name networks, data and methods as the "
            "command line does (python:MODULE:FACTORY for your own), or train without a launcher."
        )
    if session.runtime.processes > 1:
        raise LaunchError("A launcher starts its own processes: start the comparison without torchrun or srun.")


def _is_installed(name: str, session: Session) -> bool:
    return name in session.registry.all_methods()


def files_of(session: Session) -> list[str]:
    """Files that workers must see: weights and plugins in files; relative paths as they are."""
    settings = session.settings
    weights = [*settings.weights_of_teachers, settings.student_weights]
    plugins = [os.fspath(path) for path in session.registry.files]
    return [os.path.abspath(os.path.expanduser(path)) for path in (*weights, *plugins) if path is not None]


def carried_environment() -> dict[str, str]:
    """The variables that workers get from this process."""
    return {name: value for name, value in os.environ.items() if name.startswith("KDENGINE_") or name in CARRIED}
