"""What the commands that train many lanes have in common: their flags, and the comparison that these describe."""

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
    training_options,
    values_from,
)

if TYPE_CHECKING:
    from kdengine.comparison import Comparison
    from kdengine.plugins.registry import Registry
    from kdengine.runs.lane_specs import LaneSpec

__all__ = ["Comparing", "comparing_options"]


@dataclass(frozen=True)
class Comparing:
    """What was said besides the lanes.

    Attributes:
        said: flags that become settings, with ``-o``.
    """

    trials: int | None
    at_once: int | None
    resume: str | None
    override: bool
    recipe: str | None
    out: str | None
    trust: bool
    as_json: bool
    said: Mapping[str, Any]

    def resumed(self, registry: Registry, **of_the_folder: Any) -> Comparison:
        """The comparison that lies in the folder to go on with.

        Args:
            registry: finds methods.
            **of_the_folder: flags of the command that the folder answers.

        Raises:
            KDError: one of these was given, or the folder cannot be gone on with like that.
        """
        from kdengine.cli.progress import LanesProgress
        from kdengine.comparison import Comparison

        assert self.resume is not None
        refuse_with_resume(**of_the_folder, trials=self.trials, recipe=self.recipe, out=self.out)
        changes = values_from(trust=self.trust, **self.said)
        again: dict[str, Any] = {"changes": changes, "at_once": self.at_once, "override": self.override, "trust": self.trust}
        return Comparison.resume(self.resume, **again, registry=registry, observers=[LanesProgress()])

    def begun(
        self,
        registry: Registry,
        lanes: Sequence[LaneSpec],
        methods: Sequence[str],
        note: Mapping[str, Any] | None = None,
    ) -> Comparison:
        """A new comparison.

        Args:
            registry: finds methods.
            lanes: its lanes.
            methods: all that they use.
            note: what else to keep of it.

        Raises:
            KDError: for whatever of this the user can mend.
        """
        from kdengine.cli.progress import LanesProgress
        from kdengine.comparison import Comparison
        from kdengine.errors import SettingsError

        settings = settings_from(
            registry, None, self.recipe, trust=self.trust, one_lane=False, methods=tuple(methods), **self.said
        )
        if not settings.teacher:
            raise SettingsError("There is no teacher. Name it, for example --teacher timm:resnet32.")
        tools: dict[str, Any] = {"registry": registry, "observers": [LanesProgress()]}
        return Comparison.of(settings, lanes, self.trials or 1, self.out, self.at_once, note=note, **tools)


def comparing_options(*own: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The flags of every command that trains many lanes, handed over as one ``how``.

    Args:
        *own: what the command's own flags are called.
    """
    flags = [
        click.option("--trials", type=click.IntRange(min=1), help="Repetitions, each with its seed.  [default: 1]"),
        click.option(
            "--at-once", type=click.IntRange(min=1), help="Lanes to train side by side.  [default: what memory allows]"
        ),
        click.option("--teacher", metavar="SPEC", help="The network to learn from."),
        click.option("--student", metavar="SPEC", help="The network to train."),
        click.option("--teacher-weights", metavar="FILE", help="Weights of the teacher; without them it is trained first."),
        click.option("--resume", metavar="FOLDER", help="Go on with the interrupted one in this folder."),
        override_option,
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def gathered(**given: Any) -> None:
            mine = {name: given.pop(name) for name in own}
            kept = {name: given.pop(name) for name in Comparing.__dataclass_fields__ if name != "said"}
            refuse_without_resume(kept["override"] and not kept["resume"])
            command(how=Comparing(**kept, said=given), **mine)

        decorated = training_options(gathered)
        for flag in reversed(flags):
            decorated = flag(decorated)
        return decorated

    return decorate
