import pytest
import torch

from kdengine import warmup
from kdengine.testing import make_step


@pytest.mark.parametrize(
    ("epoch", "progress", "arguments", "expected"),
    [
        (0, 0.0, (20,), 1 / 20),
        (9, 9 / 240, (20,), 1 / 2),
        (19, 19 / 240, (20,), 1.0),
        (200, 0.9, (20,), 1.0),
        (1, 1 / 24, (20,), 1 / 2),
        (1, 1 / 24, (20, 1.0), 1 / 10),
        (0, 0.0, (0,), 1.0),
        (0, 0.0, (20, 0.0), 1.0),
    ],
)
def test_a_weight_rises_by_epochs_and_sooner_in_short_runs(epoch, progress, arguments, expected):
    step = make_step(student_logits=torch.zeros(2, 3), teacher_logits=torch.zeros(2, 3), epoch=epoch, progress=progress)
    assert warmup(step, *arguments) == pytest.approx(expected)
