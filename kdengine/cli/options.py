"""Options that several commands share, and the settings that they make."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from kdengine.config.settings import Settings
    from kdengine.plugins.registry import Registry

__all__ = [
    "as_json",
    "glob_of",
    "override_option",
    "refuse_with_resume",
    "refuse_without_resume",
    "resume_option",
    "set_option",
    "settings_from",
    "show_log",
    "teacher_epochs_option",
    "teacher_option",
    "teacher_store_option",
    "teacher_weights_option",
    "training_options",
    "trust_option",
    "values_from",
    "warn_of_changes",
    "weights_option",
]

log = logging.getLogger(__name__)
Command = TypeVar("Command", bound=Callable[..., Any])
SHORT = {
    "train": {"epochs": "epochs", "lr": "lr", "batch_size": "batch_size", "device": "device"},
    "teacher_train": {"teacher_epochs": "epochs"},
    "teacher_store": {"teacher_store": "folder"},
}
"""Tables of settings -> flag -> the setting in that table which the flag is short for."""

as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")
set_option = click.option(
    "-o", "assignments", multiple=True, metavar="NAME=VALUE", help="Set METHOD.OPTION or train.OPTION; repeatable."
)


teacher_option = click.option(
    "--teacher",
    multiple=True,
    metavar="SPEC",
    help="Network to learn from: timm:NAME, torchvision:NAME, python:module:factory or a zoo's name; repeatable.",
)
teacher_weights_option = click.option(
    "--teacher-weights",
    multiple=True,
    metavar="FILE",
    help="The teacher's weights; without them it is trained first. Of several teachers, in their order; 'none' for none.",
)
teacher_epochs_option = click.option(
    "--teacher-epochs", type=int, help="Epochs of the teacher's own training.  [default: those of the student]"
)
teacher_store_option = click.option(
    "--teacher-store",
    metavar="FOLDER",
    help="Keep what the teacher shows, so that later runs read it instead of running it.",
)
trust_option = click.option("--trust", is_flag=True, help="Allow running code that a folder or settings file names.")
weights_option = click.option(
    "--weights",
    type=click.Choice(["last", "best", "ema"]),
    default="last",
    help="Weights of the last or of the best epoch, or their moving average.",
    show_default=True,
)
resume_option = click.option("--resume", metavar="FOLDER", help="Resume the interrupted run in this folder.")
override_option = click.option("--override", is_flag=True, help="With --resume: allow changed settings, data or teacher.")


def training_options(command: Command, out: bool = True) -> Command:
    """Add the flags of every command that trains; without ``out``, all but that of the run folder."""
    flags = [
        click.option(
            "--data",
            metavar="SPEC",
            help="digits, cifar100, imagefolder:PATH, hf:NAME-OR-FOLDER ...; kdengine data lists all.",
        ),
        click.option("--task", metavar="NAME", help="What the student is for.  [default: what the data is for]"),
        click.option("--epochs", type=int, help="Epochs of the joint phase."),
        click.option("--lr", type=float, help="Initial learning rate."),
        click.option("--batch-size", type=int, help="Images in a batch."),
        click.option("--device", metavar="NAME", help="auto, cpu, cuda or mps."),
        click.option("--seed", type=int, help="Seed of weights, batches and augmentation."),
        click.option("--recipe", metavar="NAME", help="Published training protocol, or a TOML file of settings."),
    ]
    of_a_run = [click.option("--out", metavar="FOLDER", help="Run folder.  [default: a new one in runs/]")] if out else []
    for flag in reversed([*flags, *of_a_run, set_option, trust_option, as_json]):
        command = flag(command)
    return command


def glob_of(pattern: str) -> str:
    """A pattern in lower case as a glob; a text without wildcards matches wherever it occurs."""
    lower = pattern.lower()
    return lower if any(sign in lower for sign in "*?[") else f"*{lower}*"


def values_from(
    config: str | None = None, assignments: Sequence[str] = (), trust: bool = False, **flags: Any
) -> dict[str, Any]:
    """File, then flags, then ``-o``: later values win.

    Raises:
        SettingsError: one of them cannot be read, or the file names code and is not trusted.
    """
    from kdengine.config.settings import from_assignments
    from kdengine.config.trust import check_trusted
    from kdengine.config.values import merge, read_toml

    read = read_toml(config) if config else {}
    check_trusted(read, config or "", trust)
    given: dict[str, Any] = {key: value for key, value in flags.items() if value not in (None, ())}
    for table, short in SHORT.items():
        train = {setting: given.pop(flag) for flag, setting in short.items() if flag in given}
        given |= {table: train} if train else {}
    return merge(merge(read, {**given, **_of_teachers(given)}), from_assignments(assignments))


def _of_teachers(given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that repeated ``--teacher`` and ``--teacher-weights`` make; those of a file's teachers go with these."""
    settings: dict[str, Any] = {}
    for first, further in (("teacher", "further_teachers"), ("teacher_weights", "further_teacher_weights")):
        named = given.get(first)
        if isinstance(named, tuple):
            settings |= {first: named[0], further: list(named[1:])}
    return {"further_teacher_weights": [], **settings} if "teacher" in settings else settings


def refuse_with_resume(**given: Any) -> None:
    """Refuse flags that a resumed folder already records.

    Raises:
        SettingsError: one of them was given together with ``--resume``.
    """
    from kdengine.errors import SettingsError

    names = [f"--{name.replace('_', '-')}" for name, value in given.items() if value not in (None, ())]
    if names:
        raise SettingsError(
            f"--resume takes {' and '.join(names)} from the folder: leave {'it' if len(names) == 1 else 'them'} out."
        )


def refuse_without_resume(override: bool) -> None:
    """Refuse ``--override`` without ``--resume``.

    Raises:
        SettingsError: that is what was given.
    """
    from kdengine.errors import SettingsError

    if override:
        raise SettingsError(
            "--override belongs to --resume: a new run has nothing to override. Leave it out, or name a folder with --resume."
        )


def settings_from(
    registry: Registry,
    config: str | None,
    recipe: str | None,
    assignments: Sequence[str],
    trust: bool,
    one_lane: bool = True,
    **flags: Any,
) -> Settings:
    """Recipe, then file, then flags, then ``-o``: later values win.

    Args:
        registry: finds methods and recipes.
        config: a file of settings.
        recipe: name or file of a recipe.
        assignments: the ``-o`` options.
        trust: whether files may name code.
        one_lane: whether all methods share one lane.
        **flags: the other options.

    Raises:
        KDError: with every fault found.
    """
    from kdengine.config.values import merge
    from kdengine.errors import KDError, SettingsError, together
    from kdengine.plugins.recipes import recipe_values
    from kdengine.plugins.selection import checked_settings

    values = values_from(config, assignments, trust, **flags)
    if recipe:
        values = merge(recipe_values(recipe, values.get("methods", ()), registry, trust), values)
    faults: list[KDError] = []
    if values.get("student") in (None, ""):
        context = click.get_current_context(silent=True)
        flag = "--model" if context is not None and context.info_name == "train" else "--student"
        faults.append(SettingsError(f"There is no network to train. Name one, for example {flag} resnet8."))
        values["student"] = "unnamed"
    try:
        settings = checked_settings(values, values.get("methods", ()), registry, one_lane)
    except KDError as error:
        faults.append(error)
    if faults:
        raise together(faults)
    return settings


def warn_of_changes(config: str | None, settings: Settings) -> None:
    """Warn if a run that repeats another one may round differently, judged by the manifest beside the settings file."""
    from kdengine.storage.runfolder import RunFolder
    from kdengine.storage.sameness import warn_of_rounding
    from kdengine.training.runtime import Runtime

    folder = Path(config).parent if config else None
    if folder is not None and (folder / "manifest.json").is_file():
        train = settings.train
        now = Runtime(train.device, train.precision, train.channels_last, alone=True).describe()
        manifest = RunFolder(folder).manifest()
        warn_of_rounding(manifest, {**now, "processes": None}, f"The run in {folder}")
        _warn_of_other_weights(manifest.get("student_weights", {}), settings, folder)


def _warn_of_other_weights(recorded: Mapping[str, str], settings: Settings, folder: Path) -> None:
    from kdengine.networks.weights import fingerprint_of_file

    path = settings.student_weights
    if path is None or path != recorded.get("path") or not Path(path).expanduser().exists():
        return
    if fingerprint_of_file(path) != recorded.get("fingerprint"):
        log.warning("The weights in '%s' have changed since the run in %s, so its numbers will not repeat", path, folder)


def show_log() -> None:
    """Show the log of kdengine on standard error; of several processes, only the first one writes."""
    from rich.console import Console
    from rich.logging import RichHandler

    from kdengine.training.runtime import is_first_process

    logger = logging.getLogger("kdengine")
    handler = RichHandler(console=Console(stderr=True), show_time=False, show_level=False, show_path=False)
    logger.handlers = [handler] if is_first_process() else []
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it repeats what the run reports itself
