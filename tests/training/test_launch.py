import os

import pytest

from kdengine import SettingsError
from kdengine.training.launch import Launch, LaunchEnvironment
from kdengine.training.runtime import is_first_process

TORCHRUN = {"WORLD_SIZE": "5", "RANK": "3", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "1"}
MASTER = {"MASTER_ADDR": "node7", "MASTER_PORT": "4321"}
SRUN = {
    "SLURM_JOB_ID": "123456",
    "SLURM_STEP_ID": "2",
    "SLURM_NTASKS": "5",
    "SLURM_PROCID": "4",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_NNODES": "2",
    "SLURM_TASKS_PER_NODE": "3,2",
    "SLURM_NODELIST": "gpu[07-08]",
}


def test_a_process_of_its_own_is_alone():
    assert Launch.of({}) == Launch(processes=1, rank=0, local_rank=0, local_processes=1)


def test_what_torchrun_says_is_taken():
    launch = Launch.of({**TORCHRUN, **MASTER})
    assert (launch.processes, launch.rank, launch.local_rank, launch.local_processes) == (5, 3, 0, 2)
    assert (launch.address, launch.port) == ("node7", 4321)


def test_what_srun_says_is_taken():
    launch = Launch.of(SRUN)
    assert (launch.processes, launch.rank, launch.local_rank, launch.local_processes) == (5, 4, 1, 2)
    assert launch.address == "gpu07"
    first = Launch.of({**SRUN, "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"})
    assert (first.address, first.port, first.local_processes) == (launch.address, launch.port, 3)


def test_the_address_under_srun_can_be_given_and_is_the_loopback_on_one_node():
    assert (Launch.of({**SRUN, **MASTER}).address, Launch.of({**SRUN, **MASTER}).port) == ("node7", 4321)
    assert Launch.of({**SRUN, "SLURM_NNODES": "1"}).address == "127.0.0.1"


def test_two_steps_of_a_job_meet_at_two_ports():
    ports = {Launch.of({**SRUN, "SLURM_STEP_ID": str(step)}).port for step in range(100)}
    assert len(ports) == 100
    assert 1024 < min(ports) < max(ports) < 32768


def test_the_tasks_of_the_step_count_and_not_those_of_the_allocation():
    assert Launch.of({**SRUN, "SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "5"}).processes == 5
    interactive = {**SRUN, "SLURM_PROCID": "0", "SLURM_STEP_ID": "4294967290", "SLURM_STEP_NUM_TASKS": "1"}
    assert Launch.of(interactive).processes == 1


def test_torchrun_inside_srun_goes_before_it():
    assert Launch.of({**SRUN, **TORCHRUN, **MASTER}).rank == 3


def test_the_command_that_starts_as_many_again_is_known():
    one_node = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_WORLD_SIZE": "2", "GROUP_WORLD_SIZE": "1"}
    assert Launch.of(one_node).command == "torchrun --nproc-per-node 2 -m "
    assert Launch.of({**one_node, "WORLD_SIZE": "4", "GROUP_WORLD_SIZE": "2"}).command.startswith("torchrun --nnodes 2 ... ")
    assert Launch.of(SRUN).command == "srun --ntasks 5 "
    assert Launch.of({}).command == Launch.of({"WORLD_SIZE": "1", "RANK": "0"}).command == ""


@pytest.mark.parametrize("missing", ["SLURM_PROCID", "SLURM_STEP_ID"])
def test_a_shell_or_batch_script_of_an_allocation_runs_alone(missing):
    assert Launch.of({name: value for name, value in SRUN.items() if name != missing}) == Launch()


@pytest.mark.parametrize(
    ("listed", "counts"), [("4", [4]), ("2(x3)", [2, 2, 2]), ("4(x2),3", [4, 4, 3]), ("1,2(x2),1", [1, 2, 2, 1]), ("", [5])]
)
def test_tasks_of_each_node_are_read_from_the_short_form(listed, counts):
    for node, count in enumerate(counts):
        environment = {**SRUN, "SLURM_TASKS_PER_NODE": listed, "SLURM_NODEID": str(node)}
        assert Launch.of(environment).local_processes == count


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"WORLD_SIZE": "4"}, "WORLD_SIZE is 4, but RANK is not set"),
        ({"WORLD_SIZE": "four", "RANK": "0"}, "WORLD_SIZE must be a whole number, got 'four'"),
        ({"WORLD_SIZE": "4", "RANK": "4"}, "the rank 4 of 4 processes, but ranks count from 0 to 3"),
        ({**SRUN, "SLURM_PROCID": "x"}, "SLURM_PROCID must be a whole number, got 'x'"),
        ({**SRUN, "SLURM_PROCID": "5"}, "the rank 5 of 5 processes"),
    ],
)
def test_an_environment_that_makes_no_sense_is_refused(environment, said):
    with pytest.raises(SettingsError, match=said):
        Launch.of(environment)


def test_a_world_of_one_needs_no_rank():
    assert Launch.of({"WORLD_SIZE": "1"}) == Launch()


def test_a_gpu_is_chosen_by_the_local_rank_unless_srun_shows_only_one():
    assert [Launch.of(SRUN).gpu(visible) for visible in (1, 2, 4)] == [0, 1, 1]
    torchrun = Launch.of({**TORCHRUN, "LOCAL_RANK": "1"})
    assert [torchrun.gpu(visible) for visible in (1, 2)] == [1, 1], "of one GPU, Fabric says that there is no second"


def test_processes_of_a_node_share_its_cpus(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(7)), raising=False)
    assert [Launch(local_processes=count).threads() for count in (1, 2, 9)] == [7, 3, 1]


def test_fabric_sees_each_process_as_a_node_of_its_own():
    told = LaunchEnvironment(Launch.of({**SRUN, **MASTER}))
    assert (told.world_size(), told.global_rank(), told.node_rank(), told.local_rank()) == (5, 4, 4, 0)
    assert (told.main_address, told.main_port, told.creates_processes_externally) == ("node7", 4321, True)


@pytest.mark.parametrize(
    ("environment", "is_first"),
    [
        ({}, True),
        ({"RANK": "1", "WORLD_SIZE": "2"}, False),
        ({"RANK": "0", "WORLD_SIZE": "2"}, True),
        (SRUN, False),
        ({**SRUN, "SLURM_PROCID": "0"}, True),
        ({"RANK": "x"}, True),
    ],
)
def test_the_first_process_is_known_by_either(environment, is_first, monkeypatch):
    for name in os.environ:
        if name.startswith("SLURM_") or name in (*TORCHRUN, *MASTER):
            monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_first_process() == is_first
