"""What two processes of one run compute, beside one process; see two_processes.py."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    script = Path(__file__).with_name("two_processes.py")
    done = subprocess.run([sys.executable, str(script), str(folder)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"{name}.pt") for name in ("0", "1", "alone")]


def assert_equal(one, other):
    assert one.keys() == other.keys()
    assert [name for name, value in one.items() if not torch.equal(value, other[name])] == []


def test_tensors_are_averaged_taken_from_the_first_and_stacked_in_their_own_type(facts):
    for exchanged in (process["exchanged"] for process in facts[:2]):
        assert [value.tolist() for value in exchanged["mean"]] == [[1.5, 1.5]] * 3
        assert [value.tolist() for value in exchanged["first"]] == [[1.0, 1.0]] * 3
        assert [value.dtype for value in exchanged["mean"]] == [torch.float16, torch.float32, torch.float64]
        assert [value.tolist() for value in exchanged["stacked"]] == [[[False], [True]], [[0], [1]], [[0.0], [1.0]]]


def test_all_processes_evaluate_the_same_network_whose_statistics_are_those_of_all_images(facts):
    first, second, alone = (process["network"] for process in facts)
    for part in ("student", "connectors", "average"):
        assert_equal(first[part], second[part])
    assert first["rows"] == second["rows"]
    assert first["connectors"]
    ours, one, start = first["student"]["bn1.running_mean"], alone["student"]["bn1.running_mean"], first["before"]
    assert not torch.equal(ours, start)
    assert torch.allclose(ours, one, rtol=1e-4, atol=1e-7)


def test_memories_of_two_processes_are_equal_and_those_of_one(facts):
    first, second, alone = (process["banks"] for process in facts)
    assert_equal(first, second)
    for name in (name for name in first if name.endswith("_ND")):
        assert torch.allclose(first[name], alone[name], atol=1e-6), name


def test_a_method_that_keeps_something_of_its_own_images_is_refused_by_all(facts):
    said = [process["careless"] for process in facts[:2]]
    assert said[0] == said[1]
    assert "careless.mean differs between the 2 processes" in said[0]


def test_gradients_that_add_up_meet_once_an_update_and_are_those_that_meet_every_time(facts):
    once, always = facts[0]["accumulated"], facts[0]["always"]
    buckets = always["steps"][0]
    assert buckets > 0
    assert always["steps"] == [buckets] * 3
    assert once["steps"] == [0, 0, buckets]
    for name, value in once["gradients"].items():
        for other in (always["gradients"][name], facts[2]["accumulated"]["gradients"][name]):
            assert torch.allclose(value, other, rtol=1e-4, atol=1e-6), name


def test_a_run_is_the_same_to_the_last_bit_with_a_store_that_each_process_fills_with_its_share(facts):
    for rank, store in enumerate(process["store"] for process in facts[:2]):
        runs = store["runs"]
        for name in ("filling", "full", "half"):
            assert_equal(runs[name]["student"], runs["without"]["student"])
            assert runs[name]["rows"] == runs["without"]["rows"]
        batches = runs["without"]["forwards"]
        assert [run["forwards"] for run in runs.values()] == [batches, batches, 0, batches * rank], "one lost its share"
        assert {Path(file).parent.name for file in store["files"]} == {f"epoch-0.view-0.process-{n}-of-2" for n in (0, 1)}
