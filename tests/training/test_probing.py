import numpy as np
import pytest
import torch

from kdengine.data.batches import MemoryBatches
from kdengine.training.probing import Embedded, embedded, linear_accuracy, nearest_accuracy


def clusters(count, seed, spread=0.3):
    """Three classes around three directions; a shuffled set of them."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (count,), generator=random)
    return Embedded(torch.eye(3)[labels] + spread * torch.randn(count, 3, generator=random), labels)


def votes_by_hand(train, test, neighbours=20, temperature=0.07):
    """Accuracy of k-NN, an image and a neighbour at a time."""
    right = 0
    for feature, label in zip(test.features.double().numpy(), test.labels.tolist(), strict=True):
        known = train.features.double().numpy()
        cosines = known @ feature / np.linalg.norm(known, axis=1) / np.linalg.norm(feature)
        votes = np.zeros(3)
        for place in np.argsort(-cosines)[:neighbours]:
            votes[train.labels[place]] += np.exp(cosines[place] / temperature)
        right += votes.argmax() == label
    return 100 * right / len(test.labels)


def test_the_nearest_neighbours_vote():
    train, test = clusters(60, 0, spread=1.0), clusters(40, 1, spread=1.0)
    assert nearest_accuracy(train, test) == votes_by_hand(train, test)
    assert nearest_accuracy(clusters(5, 2), clusters(9, 3)) == votes_by_hand(clusters(5, 2), clusters(9, 3))


def test_a_linear_classifier_finds_clusters_that_are_apart_and_the_scale_of_a_feature_is_no_matter():
    train, test = clusters(60, 0, spread=0.05), clusters(40, 1, spread=0.05)
    assert linear_accuracy(train, test) == 100
    scale = torch.tensor([1e-4, 1.0, 1e4])
    assert linear_accuracy(Embedded(train.features * scale, train.labels), Embedded(test.features * scale, test.labels)) == 100


def test_random_embeddings_tell_nothing():
    random = torch.Generator().manual_seed(0)
    train, test = (Embedded(torch.randn(300, 8, generator=random), torch.randint(3, (300,), generator=random)) for _ in "ab")
    assert 20 < nearest_accuracy(train, test) < 47
    assert 20 < linear_accuracy(train, test) < 47


def test_all_images_are_embedded_in_their_order():
    images = torch.arange(5, dtype=torch.uint8)[:, None, None, None].expand(5, 1, 2, 2).contiguous()
    batches = MemoryBatches(images, torch.arange(5), (0.0,), (1 / 255,), 2)
    found = embedded(lambda batch: batch.flatten(1)[:, :1], batches)
    assert found.features.flatten().tolist() == pytest.approx([0, 1, 2, 3, 4])
    assert found.labels.tolist() == [0, 1, 2, 3, 4]
