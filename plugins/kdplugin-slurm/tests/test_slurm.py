import os
import signal
import time
from typing import ClassVar

import pytest
from kdplugin_slurm import SlurmLauncher
from kdplugin_slurm.launcher import TIMEOUTS

from kdengine import Demand, LaunchError, SettingsError, Unit
from kdengine.testing import LauncherContract

pytestmark = pytest.mark.filterwarnings("default")  # submitit leaves the processes of its jobs to themselves


@pytest.mark.slow
class TestSlurm(LauncherContract):
    launcher = SlurmLauncher
    options: ClassVar = {"cluster": "local", "jobs": 2, "threads": 1}


@pytest.mark.slow
def test_a_job_that_is_preempted_saves_and_goes_on_in_a_new_one(tmp_path):
    launcher, file = SlurmLauncher(cluster="local", jobs=1, threads=1), tmp_path / "unit"
    launcher.open(Demand("cpu", str(tmp_path)))
    try:
        unit = Unit("unit", "kdengine.launchers.errands:hold_once", {"file": str(file)}, folder=str(tmp_path))
        launcher.start(unit)
        while not file.exists():
            assert not launcher.wait(0.1)
        (task,) = _children_of(launcher._jobs["unit"]._process.pid)
        os.kill(task, signal.SIGUSR2)
        deadline, ended = time.monotonic() + 60, []
        while not ended and time.monotonic() < deadline:
            ended = list(launcher.wait(0.5))
        assert [(outcome.unit, outcome.kind) for outcome in ended] == [("unit", "done")]
        assert file.read_text().splitlines()[1:] == ["done", "done"], "saved when it was preempted, then carried to its end"
    finally:
        launcher.close()


def _children_of(process):
    import psutil

    return [child.pid for child in psutil.Process(process).children()]


def test_without_slurm_it_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LaunchError, match=r"SLURM cannot be used here: .*from which sbatch submits jobs"):
        SlurmLauncher().open(Demand("cpu", str(tmp_path)))


@pytest.mark.parametrize("cluster", ["slurm", "local"])
def test_a_unit_may_run_out_of_time_as_often_as_it_does(cluster, tmp_path, monkeypatch):
    (tmp_path / "srun").write_text("#!/bin/sh\n")
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    launcher = SlurmLauncher(cluster=cluster)
    launcher.open(Demand("cpu", str(tmp_path)))
    assert launcher._executor._executor.max_num_timeout == TIMEOUTS > 1000


def test_options_become_those_of_sbatch():
    launcher = SlurmLauncher(partition="gpu", time=90, gpus=2, memory_gb=16, threads=3, additional={"reservation": "mine"})
    assert launcher._parameters() == {
        "name": "kdengine",
        "timeout_min": 90,
        "cpus_per_task": 3,
        "slurm_partition": "gpu",
        "slurm_additional_parameters": {"reservation": "mine"},
        "mem_gb": 16.0,
        "gpus_per_node": 2,
    }
    with pytest.raises(SettingsError, match=r"There is no option 'slurm.partion'. Did you mean 'partition'"):
        SlurmLauncher(partion="gpu")
