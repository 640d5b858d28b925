"""What the commands that train many lanes share: their flags, and the comparison that these describe."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from kdengine.cli.launching import launcher_for, on_option, own_options
from kdengine.cli.options import (
    override_option,
    refuse_with_resume,
    refuse_without_resume,
    settings_from,
    teacher_epochs_option,
    teacher_option,
    teacher_store_option,
    teacher_weights_option,
    training_options,
    values_from,
)

if TYPE_CHECKING:
    from kdengine.comparison import Comparison
    from kdengine.launchers.launcher import Launcher
    from kdengine.plugins.registry import Registry
    from kdengine.runs.lane_specs import LaneSpec
    from kdengine.runs.tuning import Tuning

__all__ = ["Comparing", "comparing_options"]

OF_SETTINGS = ("values", "carried_by")
"""Fields that are made of the flags which become settings."""


WEIGHTS = {
    False: "Weights that every student starts from.",
    True: "Weights that the student starts from in every lane. Of several students, in their order; 'none' for none.",
}


@dataclass(frozen=True)
class Comparing:
    """The flags that ``compare`` and ``sweep`` share.

    Attributes:
        on: the launcher that carries the lanes, if any.
        dry_run: whether to show the plan only.
        pictures: formats of the pictures in the folder.
        values: the flags that become settings, ``-o`` among them.
        carried_by: the ``-o`` options of the launcher.
    """

    trials: int | None
    at_once: int | None
    resume: str | None
    override: bool
    recipe: str | None
    out: str | None
    trust: bool
    as_json: bool
    observers: tuple[str, ...]
    on: str | None
    dry_run: bool
    pictures: Sequence[str]
    values: Mapping[str, Any]
    carried_by: Sequence[str] = ()

    def launcher(self, registry: Registry) -> Launcher | None:
        """The launcher that ``--on`` names, with its options.

        Args:
            registry: finds launchers.

        Raises:
            KDError: there is no such launcher, or one of its options is invalid.
        """
        return launcher_for(self.on, self.carried_by, registry)

    def resumed(self, registry: Registry, latency: bool = True, **of_the_folder: Any) -> Comparison:
        """The comparison in the folder that ``--resume`` names.

        Args:
            registry: finds methods.
            latency: whether to measure how long each of several students takes.
            **of_the_folder: flags of the command that must be left out, because the folder records them.

        Raises:
            KDError: one of these was given, or the comparison cannot be resumed with these flags.
        """
        from kdengine.comparison import Comparison

        assert self.resume is not None
        values, networks, _ = self._of_one_student()
        several = networks if len(networks) > 1 else ()
        refuse_with_resume(
            **of_the_folder, trials=self.trials, recipe=self.recipe, out=self.out, student=several, observer=self.observers
        )
        changes = values_from(trust=self.trust, **values)
        options: dict[str, Any] = {"changes": changes, "at_once": self.at_once, "override": self.override, "trust": self.trust}
        return Comparison.resume(self.resume, **options, latency=latency, registry=registry)

    def started(
        self,
        registry: Registry,
        lanes: Sequence[LaneSpec],
        methods: Sequence[str],
        note: Mapping[str, Any] | None = None,
        tune_lr: Tuning | None = None,
        latency: bool = True,
    ) -> Comparison:
        """A new comparison.

        Args:
            registry: finds methods.
            lanes: its lanes.
            methods: all plugins that they use.
            note: further entries of its ``comparison.json``.
            tune_lr: which learning rates to probe first.
            latency: whether to measure how long each of several students takes.

        Raises:
            KDError: the flags are invalid or incomplete.
        """
        from kdengine.comparison import Comparison
        from kdengine.errors import SettingsError
        from kdengine.runs.assignment import Assignment
        from kdengine.runs.students import student_specs

        values, networks, weights = self._of_one_student()
        settings = settings_from(
            registry, None, self.recipe, trust=self.trust, one_lane=False, methods=tuple(methods), **values
        )
        if not settings.teacher:
            raise SettingsError("There is no teacher. Name one, for example --teacher timm:resnet32.")
        students = student_specs(networks or (settings.student,), weights) if len(networks) > 1 or len(weights) > 1 else ()
        counts: dict[str, Any] = {"trials": self.trials or 1, "at_once": self.at_once}
        assignment = Assignment.complete(
            settings.model_copy(update={"methods": ()}), registry=registry, observers=self.observers
        )
        given: dict[str, Any] = {"out": self.out, "note": note, "tune_lr": tune_lr, "latency": latency, "students": students}
        return Comparison(methods=lanes, assignment=assignment, **counts, **given)

    def _of_one_student(self) -> tuple[dict[str, Any], tuple[str, ...], tuple[str, ...]]:
        """The flags with the first student alone; all students, and the weights of each, in the order of the flags."""
        from kdengine.config.settings import WITHOUT_WEIGHTS

        given = {name: value for name in ("student", "student_weights") if (value := self.values.get(name))}
        listed = {name: value if isinstance(value, tuple) else (value,) for name, value in given.items()}
        first = {name: value[0] for name, value in listed.items() if value[0] != WITHOUT_WEIGHTS}
        rest = {name: value for name, value in self.values.items() if name not in ("student", "student_weights")}
        return {**rest, **first}, listed.get("student", ()), listed.get("student_weights", ())


def _formats(context: click.Context, option: click.Parameter, text: str) -> Sequence[str]:
    from kdengine.report.saving import checked_formats

    return checked_formats(text)


observer_option = click.option(
    "--observer",
    "observers",
    multiple=True,
    metavar="NAME",
    help="Plugin that observes every lane, such as tensorboard; repeatable.",
)
pictures_option = click.option(
    "--pictures",
    default="png",
    metavar="LIST",
    callback=_formats,
    help="Formats of the pictures in the folder: png, pdf, svg.  [default: png]",
)


def comparing_options(*own: str, many_students: bool = False) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add the flags of every command that trains many lanes; the command receives them as one argument, ``flags``.

    Args:
        *own: names of the command's own flags.
        many_students: whether ``--student`` may be repeated.
    """
    repeatable = "; repeatable." if many_students else "."
    options = [
        click.option("--trials", type=click.IntRange(min=1), help="Repetitions, each with its own seed.  [default: 1]"),
        click.option(
            "--at-once", type=click.IntRange(min=1), help="Lanes to train side by side.  [default: as many as fit in memory]"
        ),
        teacher_option,
        click.option("--student", multiple=many_students, metavar="SPEC", help=f"Network to train{repeatable}"),
        teacher_weights_option,
        click.option("--student-weights", multiple=many_students, metavar="FILE|RUN", help=WEIGHTS[many_students]),
        teacher_epochs_option,
        teacher_store_option,
        observer_option,
        click.option("--resume", metavar="FOLDER", help="Resume the interrupted comparison or sweep in this folder."),
        override_option,
        on_option,
        click.option("--dry-run", is_flag=True, help="Check all lanes and list them, and the units with --on; train nothing."),
        pictures_option,
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def gathered(**given: Any) -> None:
            mine = {name: given.pop(name) for name in own}
            shared = {name: given.pop(name) for name in Comparing.__dataclass_fields__ if name not in OF_SETTINGS}
            refuse_without_resume(shared["override"] and not shared["resume"])
            own_of_launcher, given["assignments"] = own_options(given["assignments"], shared["on"])
            command(flags=Comparing(**shared, values=given, carried_by=own_of_launcher), **mine)

        decorated = training_options(gathered)
        for option in reversed(options):
            decorated = option(decorated)
        return decorated

    return decorate
