import pytest
import torch

from kdengine.engine import Engine
from kdengine.training import memory
from kdengine.training.memory import COPIES, bytes_of, free_bytes


def test_a_lane_counts_its_student_and_connectors_several_times():
    networks = {"data": "digits@train=64@test=64", "device": "cpu", "precision": "fp32", "epochs": 1}
    plain = Engine(None, "resnet8", **networks).plan().lane
    weights = sum(tensor.numel() * tensor.element_size() for tensor in plain.student.state_dict().values())
    assert bytes_of(plain) == COPIES * weights
    distilled = Engine("resnet8", "resnet8", ["fitnet"], **networks).plan().lane
    assert bytes_of(distilled) > bytes_of(plain)


def test_memory_is_free_on_the_cpu():
    assert 2**20 < free_bytes(torch.device("cpu")) < 2**50


@pytest.mark.parametrize(("limit", "left"), [("1000000", 400_000), ("max", None), ("500000", 0), (None, None)])
def test_the_limit_of_a_container_counts(limit, left, tmp_path, monkeypatch):
    if limit is not None:
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        (tmp_path / "memory.current").write_text("600000\n")
    without = free_bytes(torch.device("cpu"))
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    found = free_bytes(torch.device("cpu"))
    if left is None:
        assert found > without // 2
    else:
        assert found == left
