"""The hooks of kdengine. A plugin is a module (or an observer any object) with functions marked ``@hookimpl``.

An implementation names only the arguments that it wants. A plugin is found through the entry-point group
``kdengine``, whose value is the module::

    [project.entry-points.kdengine]
    rkd = "kdplugin_rkd"
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    import click

    from kdengine.plugins.discovery import Registrar
    from kdengine.plugins.run_view import ResultView, RunView

__all__ = ["PROJECT", "hookimpl", "hookspec"]

PROJECT = "kdengine"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def kdengine_register(registry: Registrar) -> None:
    """Offer methods, compositions, networks, data sets or recipes.

    Called once, when the plugin is loaded::

        @hookimpl
        def kdengine_register(registry):
            registry.distiller(RKD)
    """


@hookspec
def kdengine_commands(cli: click.Group) -> None:
    """Add commands to ``kdengine``; called when a command is asked for that kdengine itself does not have."""


@hookspec
def kdengine_before_fit(run: RunView) -> None:
    """Training is about to begin. Called for the teacher's own training too (``run.settings.teacher`` is then None)."""


@hookspec
def kdengine_after_step(run: RunView, done: int, total: int) -> None:
    """All lanes have taken a step; ``done`` of ``total`` batches of the epoch."""


@hookspec
def kdengine_after_epoch(run: RunView, record: dict[str, Any]) -> None:
    """A lane has ended an epoch; ``record`` is its row in ``metrics.jsonl``."""


@hookspec
def kdengine_after_fit(run: RunView, result: ResultView) -> None:
    """Training ended well."""


@hookspec
def kdengine_on_error(run: RunView, error: BaseException) -> None:
    """Training ended by an error or an interruption; ``run.folder`` holds what was computed."""
