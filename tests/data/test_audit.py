import pytest
import torch

from kdengine import Engine, TrainingError
from kdengine.data.audit import AuditedBatches
from kdengine.data.batches import MemoryBatches, ShardedBatches


def memory():
    return MemoryBatches(torch.zeros(23, 1, 2, 2, dtype=torch.uint8), torch.zeros(23).long(), (0.5,), (1.0,), 5, seed=0)


class Changed:
    """The same batches in another selection and order."""

    def __init__(self, change):
        self.batches, self.change = memory(), change

    def epoch(self, number, start=0):
        return iter(self.change(list(self.batches.epoch(number, start))))


def audited(change=list):
    return AuditedBatches(Changed(change), samples=23, batch_size=5)


@pytest.mark.parametrize("start", range(6))
def test_an_honest_epoch_passes_from_any_batch_on(start):
    found, expected = (list(batches.epoch(2, start)) for batches in (audited(), memory()))
    assert [batch.index.tolist() for batch in found] == [batch.index.tolist() for batch in expected]
    assert len(found) == 5 - start


@pytest.mark.parametrize(
    ("change", "missed", "repeated"),
    [
        (lambda batches: batches[:-1], 3, 0),
        (lambda batches: batches[1:], 5, 0),
        (lambda batches: [*batches, batches[1]], 0, 5),
        (lambda batches: [batches[0], *batches[:-1]], 3, 5),
        (lambda batches: [], 23, 0),
    ],
    ids=["the last left out", "the first left out", "one twice", "one instead of another", "none"],
)
def test_images_that_never_came_or_came_again_are_counted(change, missed, repeated):
    with pytest.raises(TrainingError, match=f"23 images once each, but {missed} never came and {repeated} came more than once"):
        list(audited(change).epoch(0))


def test_the_rest_of_an_epoch_must_be_whole_too():
    with pytest.raises(TrainingError, match="Epoch 3 should show 8 images once each, but 5 never came and 0 came more"):
        list(audited(lambda batches: batches[1:]).epoch(2, 3))


def test_an_epoch_that_is_left_early_is_not_judged():
    epoch = audited(lambda batches: [batches[0], batches[0]]).epoch(0)
    next(epoch)
    epoch.close()


def test_every_process_sees_that_the_whole_epoch_is_sound():
    shares = [list(ShardedBatches(audited(), rank, 2).epoch(0)) for rank in range(2)]
    assert sum(len(batch.y) for share in shares for batch in share) == 23
    with pytest.raises(TrainingError, match="3 never came"):
        list(ShardedBatches(audited(lambda batches: batches[:-1]), 1, 2).epoch(0))


def test_a_run_whose_epoch_was_not_one_stops_without_a_row_for_it(monkeypatch, tmp_path):
    whole = MemoryBatches.epoch

    def with_one_batch_twice(self, number, start=0):
        batches = list(whole(self, number, start))
        return iter(batches if self.seed is None or number == 0 else [batches[0], *batches[:-1]])

    monkeypatch.setattr(MemoryBatches, "epoch", with_one_batch_twice)
    engine = Engine(
        None, "resnet8", data="digits@train=96@test=32", epochs=2, out=tmp_path / "run", batch_size=32, device="cpu"
    )
    with pytest.raises(TrainingError, match="Epoch 2 should show 96 images once each, but 32 never came and 32 came more"):
        engine.fit()
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 1
