"""Options that several commands share, and how they become settings."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from kdengine.config.settings import Settings
    from kdengine.plugins.registry import Registry

__all__ = [
    "as_json",
    "override_option",
    "refuse_with_resume",
    "refuse_without_resume",
    "set_option",
    "settings_from",
    "show_log",
    "tell_circumstances",
    "training_options",
    "trust_option",
    "values_from",
]

Command = TypeVar("Command", bound=Callable[..., Any])

as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")
set_option = click.option(
    "-o", "assignments", multiple=True, metavar="NAME=VALUE", help="Set METHOD.OPTION or train.OPTION; repeatable."
)


trust_option = click.option("--trust", is_flag=True, help="Run the code of others that a folder or settings file names.")
override_option = click.option(
    "--override", is_flag=True, help="With --resume: go on although settings, data or teacher differ."
)


def training_options(command: Command) -> Command:
    """The flags of every command that trains."""
    flags = [
        click.option("--data", metavar="SPEC", help="digits, cifar10, cifar100, imagefolder:PATH, hf:NAME-OR-FOLDER."),
        click.option("--epochs", type=int, help="Epochs of the joint phase."),
        click.option("--seed", type=int, help="Seed of weights, batches and augmentation."),
        click.option("--recipe", metavar="NAME", help="A published protocol, or a TOML file of settings."),
        click.option("--out", metavar="FOLDER", help="The run folder; by default a new one below runs/."),
        set_option,
        trust_option,
        as_json,
    ]
    for flag in reversed(flags):
        command = flag(command)
    return command


def values_from(
    config: str | None = None, assignments: Sequence[str] = (), trust: bool = False, **flags: Any
) -> dict[str, Any]:
    """File, then flags, then ``-o``: the later one wins.

    Raises:
        SettingsError: they cannot be read, or the file names code and is not trusted.
    """
    from kdengine.config.settings import from_assignments, merge, read_toml
    from kdengine.config.trust import check_trusted

    read = read_toml(config) if config else {}
    check_trusted(read, config or "", trust)
    said: dict[str, Any] = {key: value for key, value in flags.items() if value not in (None, ())}
    if "epochs" in said:
        said["train"] = {"epochs": said.pop("epochs")}
    return merge(merge(read, said), from_assignments(assignments))


def refuse_with_resume(**given: Any) -> None:
    """Refuse what a folder already knows.

    Raises:
        SettingsError: it was given together with ``--resume``.
    """
    from kdengine.errors import SettingsError

    names = [f"--{name.replace('_', '-')}" for name, value in given.items() if value not in (None, ())]
    if names:
        raise SettingsError(f"--resume takes {' and '.join(names)} from the folder: leave that out.")


def refuse_without_resume(override: bool) -> None:
    """Refuse ``--override`` where there is nothing to override.

    Raises:
        SettingsError: it was given.
    """
    from kdengine.errors import SettingsError

    if override:
        raise SettingsError("--override belongs to --resume: a new run takes the settings that it is given.")


def settings_from(
    registry: Registry,
    config: str | None,
    recipe: str | None,
    assignments: Sequence[str],
    trust: bool,
    one_lane: bool = True,
    **flags: Any,
) -> Settings:
    """Recipe, then file, then flags, then ``-o``: the later one wins.

    Args:
        registry: finds methods and recipes.
        config: a file of settings.
        recipe: a recipe.
        assignments: the ``-o`` options.
        trust: whether files may name code.
        one_lane: whether the methods share a lane.
        **flags: the other options.

    Raises:
        KDError: with every fault found.
    """
    from kdengine.config.settings import merge
    from kdengine.errors import KDError, SettingsError, together
    from kdengine.plugins.recipes import recipe_values
    from kdengine.plugins.selection import checked_settings

    values = values_from(config, assignments, trust, **flags)
    if recipe:
        values = merge(recipe_values(recipe, values.get("methods", ()), registry, trust), values)
    faults: list[KDError] = []
    if values.get("student") in (None, ""):
        faults.append(SettingsError("There is no network to train. Name it, for example --student resnet8."))
        values["student"] = "unnamed"
    try:
        settings = checked_settings(values, values.get("methods", ()), registry, one_lane)
    except KDError as error:
        faults.append(error)
    if faults:
        raise together(faults)
    return settings


def tell_circumstances(config: str | None, settings: Settings) -> None:
    """Tell where a run that repeats another one may come to other numbers, if the other's manifest lies beside its file."""
    from kdengine.storage.runfolder import RunFolder
    from kdengine.storage.sameness import warn_of_rounding
    from kdengine.training.runtime import Runtime

    folder = Path(config).parent if config else None
    if folder is not None and (folder / "manifest.json").is_file():
        train = settings.train
        now = Runtime(train.device, train.precision, train.channels_last, alone=True).describe()
        warn_of_rounding(RunFolder(folder).manifest(), {**now, "processes": None}, f"The run in {folder}")


def show_log() -> None:
    """Show what kdengine says of its steps, on standard error; of several processes, only the first one speaks."""
    from rich.console import Console
    from rich.logging import RichHandler

    from kdengine.training.runtime import is_first_process

    logger = logging.getLogger("kdengine")
    handler = RichHandler(console=Console(stderr=True), show_time=False, show_level=False, show_path=False)
    logger.handlers = [handler] if is_first_process() else []
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces what the run says itself
