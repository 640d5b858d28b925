import numpy as np
import pytest
import torch

from kdengine import ModelError
from kdengine.tasks import Unlabelled
from kdengine.tasks.unlabelled import CKA


@pytest.fixture
def embeddings():
    random = torch.Generator().manual_seed(0)
    return torch.randn(40, 5, generator=random), torch.randn(40, 7, generator=random) + 3


def similarity(student, teacher):
    """From the Gram matrices of the images, as the paper defines it; the metric uses those of the features."""
    grams = []
    for features in (student, teacher):
        gram = features.double().numpy() @ features.double().numpy().T
        centring = np.eye(len(gram)) - 1 / len(gram)
        grams.append(centring @ gram @ centring)
    k, m = grams
    return 100 * (k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum())


def test_the_similarity_is_that_of_the_paper_whatever_the_batches(embeddings):
    metric = CKA()
    for student, teacher in zip(*(side.split((3, 30, 7)) for side in embeddings), strict=True):
        metric.update(student, teacher)
    assert float(metric.compute()) == pytest.approx(similarity(*embeddings), rel=1e-9)


def test_a_rotated_and_scaled_teacher_is_matched_in_full(embeddings):
    student = embeddings[0]
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(1))).Q
    metric = CKA()
    metric.update(student, 7 * student @ rotation + 2)
    assert float(metric.compute()) == pytest.approx(100, abs=1e-4)


def test_labels_in_place_of_a_teacher_are_not_looked_at(embeddings):
    task = Unlabelled()
    metrics = task.metrics()
    metrics.update(embeddings[0], torch.zeros(40, dtype=torch.int64))
    assert metrics.compute()["similarity"].isnan()
    assert task.loss(embeddings[0], torch.zeros(40, dtype=torch.int64)) is None


def test_several_teachers_count_alike(embeddings):
    joint = Unlabelled().join(embeddings)
    assert joint.shape == (40, 12)
    torch.testing.assert_close(joint.square().sum(1), torch.full((40,), 2.0))


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (2, 0)])
def test_a_network_without_an_embedding_is_refused(shape):
    with pytest.raises(ModelError, match="embedding"):
        Unlabelled().check(torch.zeros(shape))
