"""How well an embedding tells classes apart: nearest neighbours, and a linear classifier, on labelled images."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kdengine.data.batches import Batches
from kdengine.seeds import undisturbed

__all__ = ["Embedded", "embedded", "linear_accuracy", "nearest_accuracy"]

NEIGHBOURS = 20
TEMPERATURE = 0.07
"""Neighbours that vote, and how much the nearer ones count more."""
ROUNDS = 1000
"""Most iterations of the linear classifier."""
AT_ONCE = 1024
"""Test images that are compared with all training images at a time."""


@dataclass(frozen=True)
class Embedded:
    """Images as a network embeds them.

    Attributes:
        features: float32 [N, D].
        labels: class indices, int64 [N].
    """

    features: Tensor
    labels: Tensor


def embedded(embed: Callable[[Tensor], Tensor], batches: Batches) -> Embedded:
    """Embed all images of one epoch.

    Args:
        embed: images [B, C, H, W] -> embeddings [B, D].
        batches: images with class indices.
    """
    features, labels = [], []
    with torch.no_grad():
        for batch in batches.epoch(0):
            features.append(embed(batch.x).float().cpu())
            labels.append(batch.y.cpu())
    return Embedded(torch.cat(features), torch.cat(labels))


def nearest_accuracy(train: Embedded, test: Embedded) -> float:
    """Share of test images, in percent, whose class the 20 nearest training images by cosine vote for.

    A vote weighs exp(cosine / 0.07).

    Source: Wu, Xiong, Yu, Lin, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", CVPR 2018.
    """
    known, right = F.normalize(train.features, dim=1), 0
    classes = int(max(train.labels.max(), test.labels.max())) + 1
    for features, labels in zip(test.features.split(AT_ONCE), test.labels.split(AT_ONCE), strict=True):
        cosines = F.normalize(features, dim=1) @ known.T
        near, places = cosines.topk(min(NEIGHBOURS, len(known)), dim=1)
        votes = torch.zeros(len(features), classes).scatter_add_(1, train.labels[places], (near / TEMPERATURE).exp())
        right += int((votes.argmax(1) == labels).sum())
    return 100 * right / len(test.labels)


def linear_accuracy(train: Embedded, test: Embedded) -> float:
    """Share of test images, in percent, that a logistic regression on the training embeddings, standardised, gets right."""
    with undisturbed(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a classifier that has not converged is still a measure
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=ROUNDS))
        classifier.fit(train.features.numpy(), train.labels.numpy())
        return 100 * float(classifier.score(test.features.numpy(), test.labels.numpy()))
