"""Whether an exported file gives what the student gives, on test images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kdengine.data import decoding
from kdengine.data.dataset import Data, Split
from kdengine.errors import ModelError, cause
from kdengine.runs.past_student import PastStudent
from kdengine.taps.tensors import first_tensor

__all__ = ["TOLERANCE", "Sample", "largest_difference"]

TOLERANCE = 1e-4
"""Largest difference allowed between the outputs of the student and of a file; relative where outputs exceed 1."""


@dataclass(frozen=True)
class Sample:
    """Test images, and what the student makes of them on the way that they take in training.

    Attributes:
        images: uint8 [N, C, H, W], as the data has them.
        received: what the network receives, float [N, C, H', W'].
        logits: what it answers, [N, K].
    """

    images: Tensor
    received: Tensor
    logits: Tensor

    @classmethod
    def of(cls, student: PastStudent, count: int) -> Sample:
        """The given number of test images, evenly spaced; of fewer, some come more than once."""
        split = _picked(student.data, count)
        assert split.images is not None
        few = replace(student.data, test=split)
        parts = []
        with torch.no_grad():
            for batch in few.test_batches(student.settings.train, torch.device("cpu")).epoch(0):
                received = student.preprocess(batch.x)
                logits = first_tensor(student.network(received))
                assert logits is not None
                parts.append((received, logits))
        received, logits = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        return cls(split.images, received, logits)


def _picked(data: Data, count: int) -> Split:
    """Test images in memory."""
    split, (_, height, width) = data.test, data.input_size
    places = torch.arange(count) * max(1, len(split) // count) % len(split)
    if split.images is not None:
        return split.at(places)
    images = decoding.decode(split.items, width, height, split.labels, places.tolist(), split.fitting)
    return Split(split.labels[places], images)


def largest_difference(run: Callable[[Tensor], Tensor], given: Tensor, sample: Sample, parts: Sequence[slice]) -> float:
    """Run the function of a file on the sample, and compare.

    Args:
        run: images [B, C, H, W] -> logits [B, K].
        given: the images as the file takes them, [N, C, H, W].
        sample: what the student says about them.
        parts: the images that make up each batch.

    Returns:
        the largest absolute difference, over all of them.

    Raises:
        ModelError: it exceeds the tolerance, or the file cannot be run.
    """
    worst = 0.0
    for part in parts:
        expected = sample.logits[part]
        count = len(expected)
        try:
            with torch.no_grad():
                found = run(given[part])
            difference = float((found - expected).abs().max())
        except Exception as error:  # runtimes raise errors of their own
            raise ModelError(
                f"The exported file cannot be run on a batch of {count}: {cause(error)[:300].rstrip('.')}. It was removed. "
                "Try --batch N, or another format: --to torch-export."
            ) from error
        allowed = TOLERANCE * max(1.0, float(expected.abs().max()))
        if not difference <= allowed:  # also where it is not a number
            raise ModelError(
                f"The exported file does not give what the student gives: on {count} test images, outputs differ by up to "
                f"{difference:.3g}, more than {allowed:.3g}. It was removed. Try another format, such as --to torch-export."
            )
        worst = max(worst, difference)
    return worst
