import pytest
import torch

from kdengine import DataError, ModelError
from kdengine.config.settings import TrainSettings
from kdengine.data.dataset import blank
from kdengine.storage.chance import Chance
from kdengine.tasks import Classification


def logits(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def scores(task, *batches):
    metrics = task.metrics()
    for output, target in batches:
        for metric in metrics.values():
            metric.update(output, target)
    return {name: float(value) for name, value in metrics.compute().items()}


def test_it_takes_its_classes_from_the_data_and_its_smoothing_from_the_settings():
    task = Classification.of(blank((3, 8, 8), 7), TrainSettings(label_smoothing=0.2))
    assert (task.num_outputs, task.label_smoothing, task.network_options()) == (7, 0.2, {"num_classes": 7})


def test_the_metrics_bear_the_names_of_the_scoring():
    task = Classification(7)
    assert set(task.metrics()) == {measure.name for measure in task.scoring.measures}
    assert list(task.training_metrics()) == [task.scoring.headline.name]


def test_the_loss_of_soft_targets_is_their_cross_entropy_and_without_targets_there_is_none():
    output, soft = logits(5, 4), logits(5, 4, seed=1).softmax(1)
    expected = -(soft.double() * output.double().log_softmax(1)).sum(1).mean()
    assert float(Classification(4).loss(output, soft)) == pytest.approx(float(expected), rel=1e-6)
    assert Classification(4).loss(output, None) is None


def test_soft_targets_count_by_their_largest_class_and_absent_ones_do_not_count():
    output, hard = logits(40, 6), torch.arange(40) % 6
    soft = torch.nn.functional.one_hot(hard, 6).float() * 0.8 + 0.2 / 6
    task = Classification(6)
    by_index, by_share = scores(task, (output, hard), (output, None)), scores(task, (output, soft))
    assert by_index["top1"] == by_share["top1"] == 100.0 * int((output.argmax(1) == hard).sum()) / 40
    assert by_index["top5"] == by_share["top5"]


@pytest.mark.parametrize(
    ("output", "target", "error", "message"),
    [
        ((2, 9), None, ModelError, r"'mine' returns \[2, 9\] .* \[2, 10\] is needed"),
        ((2, 10, 4, 4), None, ModelError, "10 classes"),
        ((2, 10), torch.zeros(3, dtype=torch.long), DataError, r"targets are \[3\] .* class indices \[2\]"),
        ((2, 10), torch.zeros(2, 7), DataError, r"soft targets \[2, 10\]"),
    ],
)
def test_outputs_and_targets_of_another_form_are_refused(output, target, error, message):
    with pytest.raises(error, match=message):
        Classification(10).check(torch.zeros(output), target, "mine")


def test_sums_not_quotients_are_merged():
    task, first, second = Classification(3), (logits(4, 3), torch.tensor([0, 1, 2, 0])), (logits(9, 3), torch.arange(9) % 3)
    merged = task.metrics()
    for batch in (first, second):
        part = task.metrics()
        for name, metric in part.items():
            metric.update(*batch)
            merged[name].merge_state(dict(metric.metric_state))
    expected = scores(task, first, second)
    for name in ("top1", "top5"):
        assert 100 * float(merged[name].right) / float(merged[name].count) == pytest.approx(expected[name])
    assert float(merged["loss"].total) / float(merged["loss"].count) == pytest.approx(expected["loss"])


def test_the_confusion_counts_every_image_by_true_and_predicted_class():
    output, target = logits(50, 4), torch.arange(50) % 4
    metric, expected = Classification(4).confusion(), torch.zeros(4, 4, dtype=torch.long)
    for true, predicted in zip(target, output.argmax(1), strict=True):
        expected[true, predicted] += 1
    metric.update(output[:30], target[:30])
    metric.update(output[30:], torch.nn.functional.one_hot(target[30:], 4).float())
    metric.update(output, None)
    assert torch.equal(metric.compute(), expected)


def test_predictions_are_the_likeliest_classes_by_name():
    output = torch.tensor([[0.0, 2.0, 1.0], [5.0, 0.0, 0.0]])
    first, second = Classification(3).predictions(output, ("a", "b", "c"), limit=2)
    assert [answer["class"] for answer in first] == ["b", "c"]
    assert first[0]["probability"] == pytest.approx(0.66524, abs=1e-5)
    assert second[0]["index"] == 0
    assert len(Classification(3).predictions(output, limit=9)[0]) == 3


def test_guessing_gives_the_share_of_the_most_frequent_class_and_the_loss_of_even_odds():
    task, hard = Classification(4), torch.tensor([0, 1, 1, 1, 2])
    soft = torch.nn.functional.one_hot(hard, 4).float() * 0.8 + 0.05
    assert task.chance(hard) == task.chance(soft) == Chance(60.0, pytest.approx(1.3862944))
    assert task.chance(None) == task.chance(hard[:0]) == Chance(25.0, pytest.approx(1.3862944))
    assert Classification(1).chance(None) is None


def test_a_single_class_is_refused():
    with pytest.raises(DataError, match="'mine' has a single class"):
        Classification.check_targets(torch.zeros(4, dtype=torch.int64), 1, "'mine'")
