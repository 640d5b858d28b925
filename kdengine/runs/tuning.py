"""Probing learning rates before a comparison: short trainings, judged on training images that are held out for it.

The test images choose nothing, and every lane gets the same budget.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from kdengine.config.settings import Settings, StoreSettings, TrainSettings
from kdengine.data.datamodule import DataModule
from kdengine.errors import SettingsError, TrainingError, counted
from kdengine.runs.lane_specs import LaneSpec
from kdengine.storage.names import PLAIN
from kdengine.storage.runfolder import RunFolder
from kdengine.storage.scores import Scoring

__all__ = ["Probes", "Tuning", "check_can_probe"]

log = logging.getLogger(__name__)

COUNT, MOST = 5, 20
STEP = math.sqrt(10)
"""The factor between two rates, about 3: a coarser grid would miss good rates, a finer one would tell apart what is alike."""
SHORT = 0.25
"""Length of a probe as a share of the epochs."""
HELD_OUT = 0.1
"""Share of the training images to judge probes on, if the settings hold out none."""


@dataclass(frozen=True)
class Tuning:
    """Which learning rates to probe.

    Attributes:
        rates: the rates; empty for ``count`` rates around the default one.
        count: number of rates if none are given.
        each: probe them for every lane; otherwise for the plain student, whose rate all lanes then get.
    """

    rates: tuple[float, ...] = ()
    count: int = COUNT
    each: bool = False

    def __post_init__(self) -> None:
        if not 2 <= self.count <= MOST:
            raise SettingsError(f"tune_lr cannot probe {self.count} learning rates: give a number from 2 to {MOST}.")
        bad = [rate for rate in self.rates if not (math.isfinite(rate) and rate > 0)]
        if bad:
            raise SettingsError(f"tune_lr cannot probe the learning rate {bad[0]:g}: give rates above 0.")
        if self.rates and (len(self.rates) < 2 or len(set(self.rates)) < len(self.rates)):
            raise SettingsError("tune_lr needs at least two learning rates, each of them once, such as 0.01,0.03,0.1.")

    @classmethod
    def of(cls, value: Self | bool | int | str | Iterable[float] | None) -> Tuning | None:
        """From what a caller gives: True for the default, a number of rates, the rates, or text; None or False for none.

        Raises:
            SettingsError: it is none of these.
        """
        if value is None or value is False:
            return None
        if isinstance(value, Tuning):
            return value
        if isinstance(value, int):
            return cls() if value is True else cls(count=value)
        if isinstance(value, str):
            return cls.parse(value)
        try:
            return cls(tuple(map(float, value)))
        except (TypeError, ValueError):
            raise SettingsError(
                f"tune_lr = {value!r} is not allowed: give True, a number of rates, or a list of them."
            ) from None

    @classmethod
    def parse(cls, text: str) -> Tuning:
        """From the command line: ``5``, ``0.01,0.03,0.1``, ``each``, or ``each,5``.

        Raises:
            SettingsError: it is none of these.
        """
        parts = [part.strip() for part in text.split(",")]
        each, values = "each" in parts, [part for part in parts if part != "each"]
        if len(values) == 1 and values[0].isdecimal():
            return cls(count=int(values[0]), each=each)
        try:
            return cls(tuple(map(float, values)), each=each)
        except ValueError:
            raise SettingsError(
                f"tune_lr = '{text}' is neither a number of learning rates nor a list of them. Write 5, or 0.01,0.03,0.1; with "
                "'each,' before it, rates are probed for every lane."
            ) from None

    @property
    def text(self) -> str:
        """As :meth:`parse` reads it."""
        return ",".join([*(["each"] if self.each else []), *([f"{r!r}" for r in self.rates] or [str(self.count)])])

    def around(self, default: float) -> tuple[float, ...]:
        """The rates in ascending order; if none are given, about a factor of 3 apart around the default."""
        if self.rates:
            return tuple(sorted(self.rates))
        steps = range(-(self.count // 2), self.count - self.count // 2)
        return tuple(default if step == 0 else float(f"{default * STEP**step:.2g}") for step in steps)


@dataclass(frozen=True)
class Probes:
    """The trainings of a tuning, and what they come to.

    Attributes:
        tuning: what to probe.
        compared: the lanes of the comparison that is to follow.
        given: its settings.
    """

    tuning: Tuning
    compared: Sequence[LaneSpec]
    given: Settings

    @property
    def rates(self) -> tuple[float, ...]:
        """The rates to probe, in ascending order."""
        return self.tuning.around(_rate_of(self.given.train))

    @property
    def lanes(self) -> list[LaneSpec]:
        """A lane for each probe; they start alike and see the same batches."""
        return [
            replace(lane, label=_label(lane, rate), train={**lane.train, "lr": rate})
            for lane in self._probed
            for rate in self.rates
        ]

    @property
    def settings(self) -> Settings:
        """Short, with training images held out; the teacher is that of the comparison."""
        train, epochs = self.given.train, self.epochs
        warmup = round(train.concrete.warmup_epochs * epochs / train.epochs)
        held_out = train.validation or HELD_OUT
        short = {"epochs": epochs, "warmup_epochs": warmup, "validation": held_out, "patience": None, "keep_every": None}
        changes: dict[str, Any] = {"train": train.model_copy(update=short), "teacher_train": _own_training(self.given)}
        changes["teacher_store"] = StoreSettings()  # probes see other batches
        if self.tuning.each:
            return self.given.model_copy(update=changes)
        return self.given.model_copy(update={**changes, "options": {}}).without_teacher()

    @property
    def epochs(self) -> int:
        """Epochs of a probe: a quarter of those of the comparison, but at least two where it has as many."""
        epochs = self.given.train.epochs
        return min(epochs, max(2, round(SHORT * epochs)))

    def announce(self, student: str) -> None:
        """Say what is going to be probed.

        Args:
            student: label of the student; empty if there is only one.
        """
        rates, who = ", ".join(f"{rate:g}" for rate in self.rates), "every lane" if self.tuning.each else "the plain student"
        share = f"{100 * self.settings.train.validation:g} %"
        said = "%sProbing train.lr = %s for %s: %s each, judged on %s of the training images"
        log.info(said, f"{student}: " if student else "", rates, who, counted(self.epochs, "epoch"), share)

    def outcome(self, folder: Path, scoring: Scoring) -> dict[str, Any]:
        """What the finished probes in a folder come to, as plain data for ``comparison.json``.

        Raises:
            TrainingError: no probe came to a score. Where every lane is probed, one that never does keeps its rate, and its
                row in the comparison will say why it fails.
        """
        measures = [measure.name for measure in scoring.measures]
        probes: list[dict[str, Any]] = []
        best: dict[str, float] = {}
        for lane in self._probed:
            rows = {rate: _last_row(folder / _label(lane, rate)) for rate in self.rates}
            ranked = sorted(
                (_rank(row, scoring), abs(math.log(rate / _rate_of(self.given.train))), rate)
                for rate, row in rows.items()
                if row
            )
            best |= {lane.label: ranked[0][-1]} if ranked else {}
            probes += [
                {
                    "lane": lane.label,
                    "lr": rate,
                    **{f"val_{name}": row[f"val_{name}"] for name in measures if f"val_{name}" in row},
                    "chosen": rate == best.get(lane.label),
                }
                for rate, row in rows.items()
            ]
        if not best:
            probed = ", ".join(lane.label for lane in self._probed)
            raise TrainingError(
                f"Every learning rate that was probed for {probed} failed ({', '.join(f'{rate:g}' for rate in self.rates)}): "
                f"the reasons are in failed.json of the folders in '{folder}'. Give lower rates with --tune-lr."
            )
        lr: Any = best if self.tuning.each else next(iter(best.values()))
        return {"lr": lr, "epochs": self.epochs, "validation": self.settings.train.validation, "probes": probes}

    def settings_at(self, outcome: Mapping[str, Any]) -> Settings:
        """The settings of the comparison at the rate that was chosen; the teacher's own training keeps its rate."""
        if self.tuning.each:
            return self.given
        changes: dict[str, Any] = {"train": self.given.train.model_copy(update={"lr": outcome["lr"]})}
        changes |= {"teacher_train": _own_training(self.given)} if self.given.teacher else {}
        return self.given.model_copy(update=changes)

    def lanes_at(self, outcome: Mapping[str, Any]) -> list[LaneSpec]:
        """The lanes of the comparison, each at its own rate if each was probed."""
        if not self.tuning.each:
            return list(self.compared)
        rates: Mapping[str, float] = outcome["lr"]
        return [
            replace(lane, train={**lane.train, "lr": rates[lane.label]}) if lane.label in rates else lane
            for lane in self.compared
        ]

    @property
    def _probed(self) -> list[LaneSpec]:
        if self.tuning.each:
            return list(self.compared)
        plain = [lane for lane in self.compared if not lane.plugins]
        return sorted(plain, key=lambda lane: lane.label != PLAIN)[:1]


def _rate_of(train: TrainSettings) -> float:
    """The learning rate that a network is trained with by default."""
    return train.concrete.lr


def _own_training(settings: Settings) -> dict[str, Any]:
    """The teachers' training written out, so that it no longer inherits from the student's.

    Several teachers may each have a rate that follows the network; it stays open then.
    """
    rate = {} if settings.further_teachers else {"lr": _rate_of(settings.teacher_training)}
    return {**settings.own_teacher_training, **rate}


def _label(lane: LaneSpec, rate: float) -> str:
    return f"{lane.label}@lr={rate:g}"


def _last_row(folder: Path) -> Mapping[str, Any]:
    """The last epoch of a finished probe; empty for one that failed."""
    files = RunFolder(folder)
    rows = files.metrics() if files.result() is not None else []
    return rows[-1] if rows else {}


def _rank(row: Mapping[str, Any], scoring: Scoring) -> tuple[float, ...]:
    """Sorts the best held-out score first; the other measures break ties, which are common among few images."""
    values = [(measure, row.get(f"val_{measure.name}")) for measure in scoring.measures]
    return tuple(math.inf if value is None else -value if measure.higher_is_better else value for measure, value in values)


def check_can_probe(tuning: Tuning | None, data: DataModule) -> None:
    """Refuse to probe where no images can be held out.

    Args:
        tuning: which rates to probe, if any.
        data: of the comparison.

    Raises:
        SettingsError: the data are loaders of the user's own.
    """
    if tuning is not None and data.dataset is None:
        raise SettingsError("tune_lr cannot hold out images of your own loaders. Pass a data set, or set lr yourself.")
