import os
import subprocess
import sys

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from kdengine import SettingsError
from kdengine.training.runtime import Runtime, native_bf16


def test_what_was_asked_for_is_what_runs():
    assert Runtime("cpu", "bf16").describe() == {
        **Runtime("cpu", "fp32").describe(),
        "precision": "bf16",
    }
    assert Runtime("cpu", "fp32").precision == "fp32"
    assert Runtime("cpu", "auto").precision == ("bf16" if native_bf16("cpu") else "fp32")


@pytest.mark.parametrize("device", ["toaster", "cuda:77"])
def test_a_device_that_is_not_there_is_told(device):
    with pytest.raises(
        SettingsError, match=f"train.device = '{device}' cannot be used: .*[^.!]\\. Allowed: auto, cpu, cuda, mps"
    ):
        Runtime(device)


def test_networks_with_weights_of_five_dimensions_have_a_place_too():
    network = Runtime("cpu", alone=True).place(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv3d(1, 2, 3)))
    assert network[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert network[1].weight.is_contiguous()


def test_processes_that_do_not_find_one_another_are_not_a_fault_of_the_device(monkeypatch):
    def launch(self):
        raise RuntimeError("The server socket has failed to listen.")

    monkeypatch.setattr(Fabric, "launch", launch)
    for name, value in {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 2, "MASTER_PORT": 29512, "OMP_NUM_THREADS": 1}.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(SettingsError, match=r"The 2 processes .* cannot connect at .*:29512: The server socket .*MASTER_PORT"):
        Runtime("cpu")


@pytest.mark.parametrize(("precision", "inside"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_a_wrapped_module_runs_in_the_precision_and_sees_its_input_as_it_is(precision, inside):
    seen = []

    class Module(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x):
            seen.append((x.dtype, self.layer(x).dtype))
            return self.layer(x)

    Runtime("cpu", precision).setup(Module())(torch.zeros(2, 3))
    assert seen == [(torch.float32, inside)]


def test_making_a_runtime_leaves_the_process_as_it_was():
    before = torch.get_rng_state(), torch.get_default_dtype(), torch.get_num_threads()
    Runtime("cpu", "bf16")
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (torch.get_default_dtype(), torch.get_num_threads()) == before[1:]


def test_images_and_convolutions_are_laid_out_as_asked_for():
    images, layer = torch.zeros(2, 3, 4, 5), nn.Conv2d(3, 2, 3)
    last, first = Runtime("cpu", "fp32", channels_last=True), Runtime("cpu", "fp32", channels_last=False)
    assert last.layout(images).is_contiguous(memory_format=torch.channels_last)
    assert first.layout(images) is images
    assert first.place(layer).weight.is_contiguous()
    assert last.place(layer).weight.is_contiguous(memory_format=torch.channels_last)


TASKS = """
import os
from kdengine.training.runtime import Runtime, is_first_process

for rank in range(2):
    if os.fork() == 0:  # importing torch once, not in each of them, is half of the test's time
        os.environ |= {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)}
        runtime = Runtime("cpu", "fp32")
        facts = runtime.processes, runtime.rank, runtime.is_main, is_first_process(), runtime.total(10.0 + runtime.rank)
        os.write(1, (repr(facts) + "\\n").encode())
        os._exit(0)
for _ in range(2):
    os.wait()
"""
STEP = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_ID": "0", "SLURM_NTASKS": "3", "SLURM_NNODES": "1"}


@pytest.mark.slow
def test_tasks_that_srun_started_are_one_group():
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "MASTER_"))}
    environment = {**kept, **STEP, "SLURM_STEP_NUM_TASKS": "2"}  # of an allocation of three
    done = subprocess.run([sys.executable, "-c", TASKS], env=environment, capture_output=True, text=True, timeout=120)
    assert sorted(done.stdout.splitlines()) == ["(2, 0, True, True, 21.0)", "(2, 1, False, False, 21.0)"], done.stderr


def test_the_shell_of_an_allocation_runs_alone(monkeypatch):
    for name, value in STEP.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SLURM_STEP_ID")
    runtime = Runtime("cpu", "fp32")
    assert (runtime.processes, runtime.rank, runtime.is_main) == (1, 0, True)
