import pytest
import torch
from torch import nn

from kdengine import TrainingError
from kdengine.data.batches import Batch
from kdengine.tasks import Classification
from kdengine.training.evaluation import evaluate
from kdengine.training.runtime import Runtime


class Fixed:
    """Batches of the given sizes; the labels of all images are 0, 1, 2 ..."""

    def __init__(self, *sizes):
        self.sizes = sizes

    def __len__(self):
        return len(self.sizes)

    def epoch(self, number):
        first = 0
        for size in self.sizes:
            index = torch.arange(first, first + size)
            first += size
            yield Batch(index.float().view(-1, 1, 1, 1), index % 7, index)


class Ranking(nn.Module):
    """Ranks the classes: the label of image i stands at place i // 7."""

    def forward(self, x):
        place, label = x.flatten().long() // 7, x.flatten().long() % 7
        classes = torch.arange(7)
        return -((classes[None] - label[:, None] + place[:, None]) % 7).float()


@pytest.fixture
def runtime():
    return Runtime("cpu", "fp32")


@pytest.mark.parametrize("sizes", [(42,), (5, 30, 7)])
def test_accuracies_are_shares_of_all_images_whatever_the_batches(sizes, runtime):
    # 42 images: at each of the places 0 to 5 stand seven
    found = evaluate(Ranking(), Fixed(*sizes), Classification(7), runtime)
    assert found["top1"] == pytest.approx(100 / 6)
    assert found["top5"] == pytest.approx(500 / 6)
    logs = torch.arange(0, -7, -1, dtype=torch.float64).log_softmax(0)
    assert found["loss"] == pytest.approx(float(-logs[:6].mean()), rel=1e-6)


def test_with_fewer_than_five_classes_every_answer_is_among_the_first_five(runtime):
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 3))
    batch = Batch(torch.zeros(6, 1, 1, 1), torch.tensor([0, 1, 2, 0, 1, 2]), torch.arange(6))
    found = evaluate(model, type("One", (), {"epoch": lambda self, number: iter([batch])})(), Classification(3), runtime)
    assert found["top5"] == 100.0
    assert found["top1"] == pytest.approx(100 / 3)


@pytest.mark.parametrize("training", [True, False])
def test_the_network_runs_in_eval_without_gradients_and_returns_to_its_mode(training, runtime):
    seen = []
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 7)).train(training)
    model[1].register_forward_hook(lambda module, args, output: seen.append((module.training, output.requires_grad)))
    evaluate(model, Fixed(3), Classification(7), runtime)
    assert seen == [(False, False)]
    assert model.training is training


def test_no_test_images_are_an_error(runtime):
    with pytest.raises(TrainingError, match="no test images"):
        evaluate(nn.Identity(), Fixed(), Classification(7), runtime)
