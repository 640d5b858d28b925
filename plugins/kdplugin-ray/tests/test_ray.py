import json
import os
import signal
import socket
import subprocess
import sys
import time
from typing import ClassVar

import pytest
import torch
from kdplugin_ray import RayLauncher
from safetensors.torch import load_file

from kdengine import Comparison, Demand, LaunchError, SettingsError
from kdengine.testing import LauncherContract

pytestmark = pytest.mark.filterwarnings("default")  # the warnings are those of Ray itself

DATA = "digits@train=192@test=64"
FAST = {"precision": "fp32", "device": "cpu", "batch_size": 32, "lr": 0.02, "epochs": 3, "teacher_train": {"epochs": 1}}


@pytest.fixture(scope="module")
def cluster():
    """Two nodes with a CPU each, which this process is not connected to."""
    from ray.cluster_utils import Cluster

    nodes = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={**nodes, "include_dashboard": False})
    cluster.add_node(**nodes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", cluster.address)
        yield cluster
    cluster.shutdown()


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
class TestRay(LauncherContract):
    launcher = RayLauncher
    options: ClassVar = {"threads": 1}


def compare(out):
    return Comparison("resnet14", "resnet8", ["st", "fitnet"], DATA, out=out, **FAST)


def rows_of(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in ("seconds", "images_per_second")} for row in rows]


def check_equal(one, other):
    """Every metric, and every weight, bit for bit."""
    for lane in ("plain", "st", "fitnet"):
        mine, theirs = (folder / "trial-1" / lane for folder in (one, other))
        assert rows_of(mine) == rows_of(theirs), lane
        for file in sorted(mine.glob("*.safetensors")):
            tensors, others = load_file(file), load_file(theirs / file.name)
            assert [name for name in tensors if not torch.equal(tensors[name], others[name])] == [], (lane, file.name)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The comparison without a launcher, with one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("plain") / "out"
    compare(folder).fit()
    yield folder
    torch.set_num_threads(before)


class LosingANode(RayLauncher):
    """Once a lane has finished an epoch, the second node is gone."""

    def __init__(self, cluster, rows, **options):
        super().__init__(**options)
        self.cluster, self.rows, self.first = cluster, rows, ""

    def wait(self, seconds):
        if not self.first and self.rows.exists():
            self.first = self.rows.read_text().splitlines()[0]
            self.cluster.remove_node(next(iter(self.cluster.worker_nodes)), allow_graceful=False)
        return super().wait(seconds)


@pytest.mark.slow
def test_a_machine_that_is_not_fit_is_refused_by_name(cluster, tmp_path):
    import ray

    expected = {"versions": {"torch": "0.4", "kdplugin-nowhere": "1.0"}, "token": {"path": str(tmp_path / "no"), "text": ""}}
    launcher = RayLauncher()
    with pytest.raises(LaunchError) as refusal:
        launcher.open(Demand("cpu", str(tmp_path), expected))
    launcher.close()
    assert not ray.is_initialized()
    for part in ("The worker on '", "has torch ", ", not 0.4", "lacks kdplugin-nowhere 1.0", "the disk is not shared"):
        assert part in str(refusal.value)


@pytest.mark.slow
def test_a_cluster_without_a_gpu_is_refused_where_one_is_needed(cluster, tmp_path):
    for demand, options in ((Demand("cuda", "."), {}), (Demand("cpu", "."), {"gpus_per_lane": 0.25})):
        launcher = RayLauncher(**options)
        with pytest.raises(LaunchError, match="The Ray cluster has no GPU"):
            launcher.open(demand)
        launcher.close()


@pytest.mark.slow
def test_a_node_that_is_lost_costs_nothing_but_the_time_to_begin_again(plain, cluster, tmp_path):
    launcher = LosingANode(cluster, tmp_path / "out" / "trial-1" / "st" / "metrics.jsonl", threads=1)
    compare(tmp_path / "out").fit(on=launcher)
    assert launcher.first
    check_equal(plain, tmp_path / "out")
    assert launcher.rows.read_text().splitlines()[0] == launcher.first, "a finished epoch was trained again"


@pytest.mark.slow
def test_an_interrupted_driver_saves_all_frees_the_cluster_and_is_resumed_without_it(plain, tmp_path):
    flags = "compare --methods st,fitnet --teacher resnet14 --student resnet8 --epochs 3 --teacher-epochs 1 --lr 0.02"
    flags += f" --batch-size 32 --device cpu -o train.precision=fp32 --data {DATA} --out out --on ray -o ray.threads=1"
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-m", "kdengine", *flags.split()]
    driver = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    rows = tmp_path / "out" / "trial-1" / "st" / "metrics.jsonl"
    while not rows.exists() and driver.poll() is None:
        time.sleep(0.05)
    driver.send_signal(signal.SIGINT)
    _, said = driver.communicate(timeout=180)
    assert driver.returncode == 130, said
    assert "To resume: kdengine compare --resume out --on ray" in said
    assert "Traceback" not in said
    first = rows.read_text().splitlines()[0]
    Comparison.resume(tmp_path / "out").fit()
    check_equal(plain, tmp_path / "out")
    assert rows.read_text().splitlines()[0] == first


def test_units_take_shares_of_a_gpu_by_their_lanes():
    launcher = RayLauncher(gpus_per_lane=0.25, threads=2)
    launcher._on_gpu, launcher._has = True, {"CPU": 32.0, "GPU": 2.0}
    assert [launcher.at_once(lanes) for lanes in (1, 2, 3, 4, 9)] == [8, 4, 2, 2, 2]
    whole = RayLauncher(workers=3)
    whole._on_gpu, whole._has = True, {"CPU": 32.0, "GPU": 4.0}
    assert whole.at_once(5) == 3


def test_an_address_where_nobody_listens_is_refused_at_once():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but it does not listen
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(LaunchError, match=f"The Ray cluster '{address}' cannot be reached: .*refused.* 'ray start --head'"):
            RayLauncher(address=address).open(Demand("cpu", "."))


def test_options_are_checked():
    with pytest.raises(SettingsError, match=r"ray\.gpus_per_lane = 2: it must be"):
        RayLauncher(gpus_per_lane=2)
