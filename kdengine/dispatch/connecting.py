"""Connecting a launcher to workers that are fit for a job."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from kdengine.dispatch.handover import lay_token
from kdengine.dispatch.travel import files_of
from kdengine.errors import LaunchError
from kdengine.launchers.fitness import expectation
from kdengine.launchers.launcher import Launcher
from kdengine.launchers.unit import Demand
from kdengine.runs.session import Session

__all__ = ["connect"]


def connect(launcher: Launcher, session: Session, place: Path | None) -> dict[str, Any]:
    """Open a launcher; returns what must be true on every worker.

    Args:
        launcher: the launcher.
        session: what the workers will work on.
        place: the folder in which driver and workers tell each other things; None to look at a plan only, without a trace.

    Raises:
        LaunchError: names the worker that is not fit, and says why; the folder is removed.
    """
    token = None
    if place is not None:
        place.mkdir(exist_ok=True)
        token = lay_token(place)
    plugins = session.registry.plugins
    own = [plugin.distribution for plugin in plugins if plugin.selected or launcher.name in plugin.launchers]
    expected = expectation(own, [os.getcwd(), *files_of(session)], token)
    folder = Path(tempfile.gettempdir()) / "kdengine-plan" if place is None else place
    try:
        launcher.open(Demand(session.runtime.device.type, str(folder.absolute()), expected))
    except LaunchError:
        if place is not None:
            shutil.rmtree(place, ignore_errors=True)
        raise
    return expected
