"""Every check of the contract of observers fails for one with the fault that it is there for, and for no good one."""

import pytest
import torch

from kdengine import hookimpl
from kdengine.testing import ObserverContract

CHECKS = [name for name in dir(ObserverContract) if name.startswith("test_")]


class Good:
    @hookimpl
    def kdengine_after_epoch(self, run, record):
        if run.runtime.is_main:
            (run.folder.path / "lines.txt").write_text(f"{len(run.lane.history)}")


class Deaf:
    pass


class Misspelt:
    @hookimpl
    def kdengine_after_epok(self, run):
        pass


class Failing:
    @hookimpl
    def kdengine_after_fit(self, run, result):
        raise ValueError("no such thing")


class Training:
    @hookimpl
    def kdengine_before_fit(self, run):
        with torch.no_grad():
            run.lane.student.fc.bias.add_(1.0)


class Improving:
    @hookimpl
    def kdengine_after_epoch(self, record):
        record["test_top1"] = 100.0


class FailingAtErrors:
    @hookimpl
    def kdengine_on_error(self, run, error):
        raise ValueError("no such thing")


class Once:
    """Does not begin where it began before."""

    @hookimpl
    def kdengine_before_fit(self, run):
        (run.folder.path / "mine").mkdir()


class OneForAll:
    """Writes everything to the folder of its first run."""

    folder = None

    @hookimpl
    def kdengine_after_epoch(self, run):
        self.folder = self.folder or run.folder.path
        with (self.folder / "lines.txt").open("a") as file:
            file.write("\n")


class Everywhere:
    @hookimpl
    def kdengine_after_epoch(self, run):
        with (run.folder.path / "lines.txt").open("a") as file:
            file.write("\n")


FAULTS = [
    (Deaf, "it_has_hooks", "it has no hook"),
    (Misspelt, "it_has_hooks", "kdengine_after_epok"),
    (Failing, "a_run_is_observed_to_its_end", "no such thing"),
    (Training, "it_changes_nothing_of_what_is_computed", "differs from that of a run without the observer"),
    (Improving, "it_changes_nothing_of_what_is_computed", "changes test_top1 in the row of epoch 1"),
    (FailingAtErrors, "an_interrupted_run_can_be_resumed", "a hook fails when a run ends in an error, and then: ValueError"),
    (Once, "an_interrupted_run_can_be_resumed", "File exists"),
    (OneForAll, "one_run_leaves_the_folder_of_another_alone", r"a second run changes lines\.txt of the first one"),
    (Everywhere, "only_the_first_of_several_processes_writes", r"lines\.txt is written where"),
]


def contract_of(observer):
    return type("Contract", (ObserverContract,), {"observer": observer})()


@pytest.mark.parametrize(("kind", "check", "reason"), FAULTS, ids=lambda value: getattr(value, "__name__", value))
def test_a_planted_fault_is_found(kind, check, reason):
    with pytest.raises((AssertionError, ValueError, OSError), match=reason):
        getattr(contract_of(kind()), f"test_{check}")()


def test_every_check_has_a_fault_that_it_finds():
    assert {f"test_{check}" for _, check, _ in FAULTS} == set(CHECKS)


@pytest.mark.parametrize("check", CHECKS)
def test_a_good_observer_passes(check):
    getattr(contract_of(Good()), check)()


@pytest.mark.slow
def test_an_installed_observer_passes_by_its_name():
    for check in CHECKS:
        getattr(contract_of("tensorboard"), check)()
