import math

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score

from kdengine import DataError, Engine, ModelError, SettingsError
from kdengine.config.settings import TrainSettings
from kdengine.data.batches import Batch
from kdengine.data.load import load_data
from kdengine.tasks import Multilabel
from kdengine.training.metrics import Meter, computed, update
from kdengine.training.runtime import Runtime

LABELS = 4


@pytest.fixture
def answers():
    """Logits and targets of 60 images, some labels rare."""
    random = torch.Generator().manual_seed(0)
    target = (torch.rand(60, LABELS, generator=random) < torch.tensor([0.1, 0.3, 0.5, 0.8])).float()
    return torch.randn(60, LABELS, generator=random) + target, target


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def bce(logits, targets, weight=1.0):
    p = sigmoid(logits)
    return -(weight * targets * np.log(p) + (1 - targets) * np.log(1 - p)).mean()


def test_the_metrics_are_those_of_scikit_learn_over_batches_of_any_size(answers):
    output, target = answers
    metrics = Multilabel(LABELS).metrics()
    for start, end in ((0, 7), (7, 8), (8, 60)):
        update(metrics, output[start:end], target[start:end])
    found = computed(metrics)
    scores, truth = sigmoid(output.double().numpy()), target.numpy()
    assert found["map"] == pytest.approx(100 * average_precision_score(truth, scores, average="macro"), rel=1e-5)
    assert found["f1"] == pytest.approx(100 * f1_score(truth, scores >= 0.5, average="macro"), rel=1e-5)
    assert found["loss"] == pytest.approx(bce(output.double().numpy(), truth), rel=1e-5)


@pytest.mark.parametrize(("smoothing", "weights"), [(0.0, None), (0.1, None), (0.0, (1.0, 2.0, 0.5, 3.0))])
def test_the_loss_is_the_binary_cross_entropy(smoothing, weights, answers):
    output, target = answers
    task = Multilabel(LABELS, smoothing, None if weights is None else torch.tensor(weights))
    smooth = target.double().numpy() * (1 - smoothing) + smoothing / 2
    expected = bce(output.double().numpy(), smooth, 1.0 if weights is None else np.array(weights))
    assert task.loss(output, target).item() == pytest.approx(expected, rel=1e-5)


def test_without_targets_there_is_neither_loss_nor_measure(answers):
    task = Multilabel(LABELS)
    assert task.loss(answers[0], None) is None
    metrics = task.metrics()
    for metric in metrics.values():
        metric.update(answers[0], None)


def test_half_an_epoch_of_training_metrics_is_saved_and_restored(answers):
    output, target = answers
    runtime = Runtime("cpu", "fp32")
    batch = Batch(output, target, index=None)
    first, second = (Meter(runtime, Multilabel(LABELS), length=9) for _ in range(2))
    first.note(batch, {}, output)
    second.load_state_dict(first.state_dict())
    assert second.row(scored=True)["train_f1"] == first.row(scored=True)["train_f1"] > 0


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (torch.zeros(5), r"targets \[5\], but multi-label data needs \[N, 4\]"),
        (torch.zeros(5, 3), r"targets \[5, 3\]"),
        (torch.full((5, 4), 2.0), "other than 0 and 1"),
    ],
)
def test_targets_of_another_form_are_refused(targets, message):
    with pytest.raises(DataError, match=message):
        Multilabel.check_targets(targets, LABELS, "'mine'")


def test_outputs_and_targets_of_another_shape_are_refused():
    with pytest.raises(ModelError, match=r"'net' returns \[2, 3\] .* the data has 4 labels: \[2, 4\]"):
        Multilabel(LABELS).check(torch.zeros(2, 3), owner="net")
    with pytest.raises(DataError, match=r"targets are \[2\], but \[2, 4\]"):
        Multilabel(LABELS).check(torch.zeros(2, 4), torch.zeros(2))


def test_predictions_are_all_labels_from_one_half_on_and_at_least_one():
    task = Multilabel(LABELS)
    output = torch.tensor([[2.0, -1.0, 1.0, -3.0], [-1.0, -2.0, -3.0, -4.0]])
    first, second = task.predictions(output, ("a", "b", "c", "d"))
    assert [answer["class"] for answer in first] == ["a", "c"]
    assert [(answer["class"], answer["index"]) for answer in second] == [("a", 0)]
    assert first[0]["probability"] == pytest.approx(sigmoid(2.0))
    assert len(task.predictions(output, limit=3)[1]) == 3


def test_several_networks_say_together_the_mean_of_their_probabilities(answers):
    output, _ = answers
    joined = Multilabel(LABELS).join([output, output.flip(0), 3 * output])
    expected = torch.stack([output, output.flip(0), 3 * output]).sigmoid().mean(0)
    assert torch.allclose(joined.sigmoid(), expected, atol=1e-6)


def test_chance_is_that_of_a_random_order(answers):
    _, target = answers
    chance = Multilabel(LABELS).chance(target)
    shares = target.double().mean(0).numpy()
    assert chance.score == pytest.approx(100 * shares.mean())
    assert chance.loss == pytest.approx(-(shares * np.log(shares) + (1 - shares) * np.log(1 - shares)).mean())
    assert Multilabel(LABELS).chance().loss == pytest.approx(math.log(2))


def test_balanced_weights_are_how_many_more_images_lack_a_label():
    data = load_data("digit-scenes@train=40@test=10")
    task = Multilabel.of(data, TrainSettings(class_weights="balanced"))
    positive = data.targets.sum(0)
    assert torch.allclose(task.weights, (40 - positive) / positive)
    with pytest.raises(SettingsError, match="2 numbers, but the data has 10 labels"):
        Multilabel.of(data, TrainSettings(class_weights=(1.0, 2.0)))


@pytest.mark.slow
def test_a_student_learns_labels_from_a_teacher_by_sigmoids(tmp_path):
    result = Engine(
        "resnet8",
        "resnet8",
        ["st"],
        "digit-scenes@train=64@test=32",
        epochs=1,
        mixup=0.2,
        out=tmp_path / "run",
        device="cpu",
        precision="fp32",
        teacher_train={"epochs": 1},
    ).fit()
    assert set(result.facts["student"]) >= {"map", "best_map", "f1", "loss"}
    assert result.history[0]["terms"]["st.soft"] > 0
    assert "train_f1" in result.history[0]


def test_a_method_for_classes_is_refused_before_anything_is_trained(tmp_path):
    with pytest.raises(
        SettingsError, match="mbd-hard is defined for classes, but the outputs of the task 'multilabel' are labels"
    ):
        Engine("resnet8", "resnet8", ["mbd-hard"], "digit-scenes@train=64@test=32", out=tmp_path / "run").plan()
