"""What a teacher store is for: what must be the same in every run that reads it, and how a difference is told."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from kdengine._version import __version__
from kdengine.config.settings import Settings, TrainSettings
from kdengine.errors import SettingsError
from kdengine.runs.session import Session
from kdengine.runs.start import OF_BATCHES

__all__ = ["batches_of_store", "check_batches", "command_to_teach", "refuse_own_data"]

OF_TRAIN = (*OF_BATCHES, "second_view", "channels_last", "fold_teacher")
"""Train settings that decide which images a teacher sees and in which form; the precision is taken as it was resolved."""


def refuse_own_data(session: Session) -> None:
    """Refuse data whose batches kdengine cannot tell again.

    Raises:
        SettingsError: says why.
    """
    data = session.data.dataset
    if data is None:
        raise SettingsError(
            "A teacher store needs batches that are the same in every run, but the order and the augmentation of your own "
            "loaders are not kdengine's, and nothing tells one version of their images from another. Give data that kdengine "
            "loads, such as imagefolder:PATH or a data set of PIL images, or leave teacher_store out."
        )
    if not data.fingerprint:
        raise SettingsError(
            f"A teacher store needs to tell one version of the data from another, but '{data.name}' has no fingerprint. Give "
            "Data(..., fingerprint=TEXT), or leave teacher_store out."
        )


def batches_of_store(session: Session) -> dict[str, Any]:
    """What decides every batch of the session but the seed, and the form in which its teachers show it, as plain data."""
    data, train, runtime = session.data.dataset, session.settings.train, session.runtime
    assert data is not None
    return {
        "kdengine": __version__,
        "data": data.fingerprint,
        "data.input_size": list(data.input_size),
        "data.mean": list(data.mean),
        "data.std": list(data.std),
        "data.augment": data.augment,
        "data.train_images": session.data.num_samples,
        "task": session.task.name,
        **{f"train.{name}": getattr(train, name) for name in OF_TRAIN},
        "train.precision": runtime.precision,
        "processes": runtime.processes,
        "teacher_store.lossy": session.settings.teacher_store.lossy or "none",
    }


def check_batches(folder: object, note: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse a run on other batches than those of the store.

    Args:
        folder: of the store.
        note: what it is for.
        now: what the run has, as :func:`batches_of_store` tells it.

    Raises:
        SettingsError: names every difference.
    """
    before = note["batches"]
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if not names:
        return
    taught = " and ".join(teacher["name"] for teacher in note["teachers"].values())
    held = ", ".join(f"{name} = {_shown(before.get(name))}" for name in names)
    ours = ", ".join(f"{name} = {_shown(now.get(name))}" for name in names)
    raise SettingsError(
        f"The teacher store '{folder}' holds what {taught} showed under {held}; this run has {ours}. Name another folder with "
        "--teacher-store, or run under the settings of the store."
    )


def command_to_teach(settings: Settings, folder: object, seed: int, weights: Sequence[str | None]) -> str:
    """The command that fills a store with the batches of a seed.

    Args:
        settings: of the run.
        folder: of the store.
        seed: of the batches.
        weights: the file with the weights of each teacher, if known.
    """
    train, default = settings.train, TrainSettings()
    changed = [name for name in (*OF_TRAIN, "precision") if getattr(train, name) != getattr(default, name)]
    words = ["kdengine", "teach"]
    for spec in settings.teachers:
        words += ["--teacher", spec]
    for path in weights if any(weights) else ():
        words += ["--teacher-weights", path or "none"]
    words += ["--data", settings.data, "--epochs", str(train.epochs), "--seed", str(seed), "--teacher-store", str(folder)]
    for name in changed:
        words += ["-o", f"train.{name}={_shown(getattr(train, name))}"]
    return shlex.join(words)


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)
