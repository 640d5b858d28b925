"""The hooks of kdengine. A plugin is a module, and an observer any object, with functions marked ``@hookimpl``.

An implementation declares only the arguments that it uses. Plugins are discovered through the entry-point group
``kdengine``; the value is the module::

    [project.entry-points.kdengine]
    rkd = "kdplugin_rkd"
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    import click
    from torch import Tensor

    from kdengine.plugins.discovery import Registrar
    from kdengine.plugins.run_view import ComparisonView, ResultView, RunView

__all__ = ["PROJECT", "hookimpl", "hookspec"]

PROJECT = "kdengine"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def kdengine_register(registry: Registrar) -> None:
    """Register methods, compositions, adapters, networks, data sets, tasks, launchers or recipes.

    Called once, when the plugin is loaded::

        @hookimpl
        def kdengine_register(registry: Registrar) -> None:
            registry.distiller(RKD)
    """


@hookspec
def kdengine_commands(cli: click.Group) -> None:
    """Add commands to ``kdengine``; called when the user names a command that kdengine itself does not have."""


@hookspec
def kdengine_before_fit(run: RunView) -> None:
    """Called before training begins; also for the teacher's own training (``run.settings.teacher`` is then None)."""


@hookspec
def kdengine_after_step(run: RunView, done: int, total: int, terms: Mapping[str, Tensor]) -> None:
    """Called after each step: ``done`` of ``total`` batches of the epoch are finished.

    ``terms`` holds the weighted loss terms of that step by name, each a detached tensor [] on the device of the run. To read
    one (``float(terms["task"])``) waits for the device: rather do that every hundred steps than in every step.
    """


@hookspec
def kdengine_after_epoch(run: RunView, record: dict[str, Any]) -> None:
    """Called after each epoch of a lane; ``record`` is its row in ``metrics.jsonl``."""


@hookspec
def kdengine_after_fit(run: RunView, result: ResultView) -> None:
    """Called after training has completed."""


@hookspec
def kdengine_on_error(run: RunView, error: BaseException) -> None:
    """Called when an error or an interruption ends training; ``run.folder`` holds the results so far."""


@hookspec
def kdengine_after_comparison(comparison: ComparisonView) -> None:
    """Called when all lanes of a comparison or sweep have ended, in the process that writes and reports."""
