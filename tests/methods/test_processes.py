import pytest
import torch

from kdengine import Processes, TrainingError
from kdengine.testing import in_processes

ROWS = torch.arange(22.0).reshape(11, 2)


def test_one_process_has_its_own_rows_and_values():
    rows = ROWS.clone().requires_grad_()
    assert torch.equal(Processes().gathered(rows), ROWS)
    assert torch.equal(Processes().stacked(rows), ROWS[None])
    assert not Processes().gathered(rows).requires_grad


@pytest.mark.parametrize("told", [True, False], ids=["told", "found out"])
@pytest.mark.parametrize(("count", "images"), [(2, 10), (2, 11), (3, 11), (3, 10)])
def test_rows_of_all_processes_come_in_the_order_of_the_batch_that_they_share(count, images, told):
    batch = ROWS[:images]
    shares = [len(batch[rank::count]) for rank in range(count)] if told else []
    for kind in (torch.float32, torch.int64):
        rows = batch.to(kind)
        gathered = in_processes(count, lambda rank, processes, rows=rows: processes.gathered(rows[rank::count]), shares)
        assert all(torch.equal(one, rows) for one in gathered)


def test_processes_of_loaders_with_shares_of_any_size_lose_no_row():
    parts = [ROWS[:2], ROWS[2:7], ROWS[7:8]]
    for one in in_processes(3, lambda rank, processes: processes.gathered(parts[rank])):
        assert sorted(one[:, 0].tolist()) == ROWS[:8, 0].tolist()


def test_images_that_all_processes_have_are_gathered_once():
    gathered = in_processes(3, lambda rank, processes: processes.gathered(ROWS[:2]), (2, 0, 0))
    assert all(torch.equal(one, ROWS[:2]) for one in gathered)


def test_values_are_stacked_by_rank():
    stacked = in_processes(2, lambda rank, processes: processes.stacked(torch.tensor([rank, 7])))
    assert [one.tolist() for one in stacked] == [[[0, 7], [1, 7]]] * 2


def test_rows_that_are_not_one_for_each_image_are_refused():
    with pytest.raises(TrainingError, match=r"of which the processes have 4, 3; got 8 rows\. This is a bug in the plugin"):
        in_processes(2, lambda rank, processes: processes.gathered(ROWS[:8]), (4, 3))
