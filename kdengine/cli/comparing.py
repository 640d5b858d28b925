"""What the commands that train many lanes share: their flags, and the comparison that these describe."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from kdengine.cli.options import (
    override_option,
    refuse_with_resume,
    refuse_without_resume,
    settings_from,
    teacher_epochs_option,
    teacher_option,
    teacher_weights_option,
    training_options,
    values_from,
)

if TYPE_CHECKING:
    from kdengine.comparison import Comparison
    from kdengine.plugins.registry import Registry
    from kdengine.runs.lane_specs import LaneSpec
    from kdengine.runs.tuning import Tuning

__all__ = ["Comparing", "comparing_options"]


@dataclass(frozen=True)
class Comparing:
    """The flags that ``compare`` and ``sweep`` share.

    Attributes:
        values: the flags that become settings, ``-o`` among them.
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
    values: Mapping[str, Any]

    def resumed(self, registry: Registry, **of_the_folder: Any) -> Comparison:
        """The comparison in the folder that ``--resume`` names.

        Args:
            registry: finds methods.
            **of_the_folder: flags of the command that must be left out, because the folder records them.

        Raises:
            KDError: one of these was given, or the comparison cannot be resumed with these flags.
        """
        from kdengine.comparison import Comparison

        assert self.resume is not None
        refuse_with_resume(**of_the_folder, trials=self.trials, recipe=self.recipe, out=self.out, observer=self.observers)
        changes = values_from(trust=self.trust, **self.values)
        options: dict[str, Any] = {"changes": changes, "at_once": self.at_once, "override": self.override, "trust": self.trust}
        return Comparison.resume(self.resume, **options, registry=registry)

    def started(
        self,
        registry: Registry,
        lanes: Sequence[LaneSpec],
        methods: Sequence[str],
        note: Mapping[str, Any] | None = None,
        tune_lr: Tuning | None = None,
    ) -> Comparison:
        """A new comparison.

        Args:
            registry: finds methods.
            lanes: its lanes.
            methods: all plugins that they use.
            note: further entries of its ``comparison.json``.
            tune_lr: which learning rates to probe first.

        Raises:
            KDError: the flags are invalid or incomplete.
        """
        from kdengine.comparison import Comparison
        from kdengine.errors import SettingsError

        settings = settings_from(
            registry, None, self.recipe, trust=self.trust, one_lane=False, methods=tuple(methods), **self.values
        )
        if not settings.teacher:
            raise SettingsError("There is no teacher. Name one, for example --teacher timm:resnet32.")
        tools: dict[str, Any] = {"registry": registry, "tune_lr": tune_lr, "observers": self.observers}
        return Comparison.of(settings, lanes, self.trials or 1, self.out, self.at_once, note=note, **tools)


def comparing_options(*own: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add the flags of every command that trains many lanes; the command receives them as one argument, ``flags``.

    Args:
        *own: names of the command's own flags.
    """
    options = [
        click.option("--trials", type=click.IntRange(min=1), help="Repetitions, each with its own seed.  [default: 1]"),
        click.option(
            "--at-once", type=click.IntRange(min=1), help="Lanes to train side by side.  [default: as many as fit in memory]"
        ),
        teacher_option,
        click.option("--student", metavar="SPEC", help="Network to train."),
        teacher_weights_option,
        click.option("--student-weights", metavar="FILE|RUN", help="Weights that every student starts from."),
        teacher_epochs_option,
        click.option(
            "--observer",
            "observers",
            multiple=True,
            metavar="NAME",
            help="Plugin that observes every lane, such as tensorboard; repeatable.",
        ),
        click.option("--resume", metavar="FOLDER", help="Resume the interrupted comparison or sweep in this folder."),
        override_option,
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def gathered(**given: Any) -> None:
            mine = {name: given.pop(name) for name in own}
            shared = {name: given.pop(name) for name in Comparing.__dataclass_fields__ if name != "values"}
            refuse_without_resume(shared["override"] and not shared["resume"])
            command(flags=Comparing(**shared, values=given), **mine)

        decorated = training_options(gathered)
        for option in reversed(options):
            decorated = option(decorated)
        return decorated

    return decorate
