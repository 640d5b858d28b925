from dataclasses import replace

import pytest
import torch

from kdengine.data.batches import Batch
from kdengine.tasks import Classification
from kdengine.training import metrics
from kdengine.training.metrics import Meter
from kdengine.training.runtime import Runtime

LABELS = (torch.tensor([0, 1, 2]), torch.tensor([1]))


def batch(labels):
    return Batch(torch.zeros(len(labels), 1, 1, 1), labels, torch.arange(len(labels)))


def meter():
    return Meter(Runtime("cpu", "fp32", alone=True), Classification(3), length=4)


def filled(meter):
    meter.note(batch(LABELS[0]), {"task": torch.tensor(1.0), "st.soft": torch.tensor(3.0)}, torch.eye(3))
    meter.note(batch(LABELS[1]), {"task": torch.tensor(5.0), "st.soft": torch.tensor(7.0)}, torch.eye(3)[:1])
    meter.busy = 2.0
    return meter


def test_its_means_are_over_images_not_over_batches():
    row = filled(meter()).row(scored=True)
    assert row["terms"] == {"task": pytest.approx(2.0), "st.soft": pytest.approx(4.0)}
    assert row["loss"] == pytest.approx(6.0)
    assert row["train_top1"] == pytest.approx(75.0)
    assert (row["seconds"], row["images_per_second"]) == (2.0, 2.0)
    assert "train_top1" not in filled(meter()).row(scored=False)


def test_it_goes_on_from_a_state_as_if_nothing_had_happened():
    one, other = filled(meter()), meter()
    other.load_state_dict(one.state_dict())
    assert other.steps == 2
    assert filled(other).row(scored=True) == filled(one).row(scored=True)


def test_images_that_another_process_counts_are_a_step_and_nothing_more():
    twice = filled(meter())
    twice.note(replace(batch(LABELS[1]), shares=(1, 0), rank=1), {"task": torch.tensor(9.0)}, torch.eye(3)[:1])
    row, expected = twice.row(scored=True), filled(meter()).row(scored=True)
    assert (twice.steps, row["terms"], row["train_top1"]) == (3, expected["terms"], expected["train_top1"])


def test_outputs_may_wait_but_not_those_of_the_first_and_the_last_step(monkeypatch):
    lengths = []
    monkeypatch.setattr(metrics, "update", lambda _, output, target: lengths.append(len(output)))
    waiting, labels = meter(), torch.arange(2)
    for _ in range(4):
        waiting.note(batch(labels), {}, torch.eye(3)[:2])
        lengths.append("step")
    assert lengths == [2, "step", "step", "step", 2, 2, 2, "step"]


def test_outputs_wait_only_as_long_as_they_are_small(monkeypatch):
    waiting = meter()
    monkeypatch.setattr(metrics, "HELD", 2 * torch.eye(3).nbytes)
    for _ in range(3):
        waiting.note(batch(LABELS[0]), {}, torch.eye(3))
        assert len(waiting._waiting) == waiting.steps - 1
    waiting = meter()
    monkeypatch.setattr(metrics, "HELD", torch.eye(3).nbytes - 1)
    for _ in range(3):
        waiting.note(batch(LABELS[0]), {}, torch.eye(3))
        assert not waiting._waiting


def test_an_output_is_scored_with_its_own_targets_though_the_loader_fills_one_tensor_with_all():
    target, reusing = torch.zeros(3, dtype=torch.long), meter()
    for labels in ([0, 1, 2], [0, 1, 2], [2, 2, 2]):
        target.copy_(torch.tensor(labels))
        reusing.note(batch(target), {}, torch.eye(3))
    assert reusing.row(scored=True)["train_top1"] == pytest.approx(700 / 9)


def test_an_output_that_its_network_overwrites_is_scored_as_it_was():
    output, reusing = torch.eye(3), meter()
    for _ in range(3):
        output.copy_(torch.eye(3))
        reusing.note(batch(LABELS[0]), {}, output)
        output.zero_()
    assert reusing.row(scored=True)["train_top1"] == 100


def test_a_step_without_logits_counts_no_accuracy():
    alone = meter()
    alone.note(batch(LABELS[0]), {"fitnet.hint": torch.tensor(1.0)}, None)
    assert alone.row(scored=False)["terms"] == {"fitnet.hint": 1.0}
