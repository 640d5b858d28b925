import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kdengine import DataError, ModelError
from kdengine.config.settings import TrainSettings
from kdengine.data.dataset import Data, Split
from kdengine.tasks import Segmentation
from kdengine.tasks.segmentation import IGNORED

K = 3


@pytest.fixture
def task():
    return Segmentation(K)


@pytest.fixture
def batch():
    random = torch.Generator().manual_seed(0)
    target = torch.randint(K, (2, 6, 8), generator=random)
    target[0, :2] = IGNORED
    return torch.randn(2, K, 6, 8, generator=random), target


def by_pixel(logits, target):
    """Predicted and true classes of the pixels that count, and the logarithm of the probability of the true one."""
    for image, mask in zip(logits.double().numpy(), target.numpy(), strict=True):
        for row in range(mask.shape[0]):
            for column in range(mask.shape[1]):
                if mask[row, column] != IGNORED:
                    values = image[:, row, column]
                    yield int(values.argmax()), mask[row, column], values[mask[row, column]] - np.log(np.exp(values).sum())


def test_the_loss_is_the_mean_over_the_pixels_that_count(task, batch):
    expected = -np.mean([log for _, _, log in by_pixel(*batch)])
    assert float(task.loss(*batch)) == pytest.approx(expected, rel=1e-6)


def test_the_loss_is_zero_with_gradients_of_zero_where_no_pixel_counts(task, batch):
    logits = batch[0].requires_grad_()
    loss = task.loss(logits, torch.full_like(batch[1], IGNORED))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


def test_weights_of_classes_and_label_smoothing_are_those_of_torch(batch):
    weights = torch.tensor([1.0, 2.0, 0.5])
    expected = F.cross_entropy(batch[0], batch[1], weights, ignore_index=IGNORED, label_smoothing=0.1)
    torch.testing.assert_close(Segmentation(K, 0.1, weights).loss(*batch), expected)


def test_smaller_outputs_are_enlarged(task, batch):
    small = F.avg_pool2d(batch[0], 2)
    large = F.interpolate(small, batch[1].shape[1:], mode="bilinear", align_corners=False)
    torch.testing.assert_close(task.loss(small, batch[1]), task.loss(large, batch[1]))


def test_measures_are_those_counted_pixel_by_pixel_over_batches_of_any_size(task, batch):
    pixels = list(by_pixel(*batch))
    ious = []
    for k in range(K):
        both = sum(guess == true == k for guess, true, _ in pixels)
        ious.append(both / sum(k in (guess, true) for guess, true, _ in pixels))
    metrics = task.metrics()
    for image, mask in zip(*batch, strict=True):
        metrics.update(image[None], mask[None])
    found = {name: float(value) for name, value in metrics.compute().items()}
    assert found["miou"] == pytest.approx(100 * np.mean(ious), rel=1e-5)
    assert found["accuracy"] == pytest.approx(100 * np.mean([guess == true for guess, true, _ in pixels]), rel=1e-5)
    assert found["loss"] == pytest.approx(-np.mean([log for _, _, log in pixels]), rel=1e-6)


def test_the_confusion_matrix_counts_pixels(task, batch):
    metric = task.confusion()
    metric.update(*batch)
    expected = torch.zeros(K, K, dtype=torch.long)
    for guess, true, _ in by_pixel(*batch):
        expected[true, guess] += 1
    assert torch.equal(metric.compute(), expected)


def test_predictions_are_shares_of_the_image(task):
    output = F.one_hot(torch.tensor([[[0, 0], [2, 0]]]), K).movedim(3, 1).float()
    assert task.predictions(output, ["sky", "sea", "land"]) == [
        [{"class": "sky", "index": 0, "share": 0.75}, {"class": "land", "index": 2, "share": 0.25}]
    ]


def test_chance_is_what_the_most_frequent_class_everywhere_reaches(task):
    masks = torch.tensor([[[0, 0, 0, 1], [IGNORED, IGNORED, IGNORED, IGNORED]]], dtype=torch.uint8)
    guess = torch.zeros(1, K, 2, 4)
    guess[:, 0] = 1
    metrics = task.metrics()
    metrics.update(guess, masks.long())
    assert task.chance(masks).score == pytest.approx(float(metrics.compute()["miou"]))


def test_balanced_weights_make_the_mean_weight_of_a_pixel_one():
    masks = torch.tensor([[[0, 0], [0, 1]]], dtype=torch.uint8)
    split = Split(masks, torch.zeros(1, 3, 2, 2, dtype=torch.uint8))
    data = Data("few", ("a", "b"), (3, 2, 2), (0.5,) * 3, (0.5,) * 3, "none", split, split, task="segmentation")
    weights = Segmentation.of(data, TrainSettings(class_weights="balanced")).weights
    assert weights.tolist() == pytest.approx([4 / 6, 4 / 2])


@pytest.mark.parametrize("shape", [(2, K), (2, K + 1, 6, 8), (2, 6, 8)])
def test_other_outputs_are_refused_and_segmentation_networks_named(task, shape):
    with pytest.raises(ModelError, match="seg:resnet18"):
        task.check(torch.zeros(shape))


def test_masks_with_an_unknown_class_are_refused():
    masks = torch.tensor([[[0, K], [IGNORED, 1]]], dtype=torch.uint8)
    with pytest.raises(DataError, match=f"value {K}, but its {K} classes"):
        Segmentation.check_targets(masks, K, "'mine'")


def test_teachers_together_are_the_mean_of_their_probabilities(task, batch):
    other = batch[0].flip(0)
    joint = task.join([batch[0], other]).softmax(1)
    torch.testing.assert_close(joint, (batch[0].softmax(1) + other.softmax(1)) / 2)
