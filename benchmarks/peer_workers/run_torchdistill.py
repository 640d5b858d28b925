"""The worker of torchdistill: a distillation box made of a configuration, in the loop of its examples."""

from __future__ import annotations

import torch
from protocol import LR, MOMENTUM, SAMPLES, Loop, Scene, serve
from torch import Tensor
from torchdistill.core.distillation import get_distillation_box
from torchdistill.models import wrapper  # registers the auxiliary wrappers
from torchdistill_methods import METHODS, NEGATIVES, TASK

CPU = torch.device("cpu")


class BoxLoop:
    """``loss = box.forward_process(x, y, supp_dict); box.post_forward_process(loss)``."""

    def __init__(self, scene: Scene, method: str) -> None:
        student, teacher, terms = METHODS[method]()
        alone = "alone" in terms
        terms = {name: value for name, value in terms.items() if value is not None} | ({} if alone else {"task": TASK})
        config = {
            "num_epochs": 1,
            "teacher": {"requires_grad": False, **teacher},
            "student": {"requires_grad": True, **student},
            "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": terms}},
            "optimizer": {"key": "SGD", "kwargs": {"lr": LR, "momentum": MOMENTUM}},
        }
        networks = scene.network("teacher"), scene.network("student")
        self.box = get_distillation_box(*networks, {}, config, CPU, None, False, 1.0)
        self.box.pre_epoch_process(epoch=0)
        self.negatives = _negatives(scene.batches) if method == "crd" else None
        self.batches = scene.endless()

    def step(self) -> dict[str, float]:
        """One step; its total loss."""
        x, y, index = next(self.batches)
        extra = {} if self.negatives is None else {"pos_idx": index, "contrast_idx": self.negatives}
        loss = self.box.forward_process(x, y, extra)
        self.box.post_forward_process(loss=loss)
        return {"total": float(loss)}


def _negatives(batches: list[tuple[Tensor, ...]]) -> Tensor:
    """Positions of random images [B, 1 + negatives], the first of which the loss takes for the image itself."""
    negatives = torch.randint(SAMPLES, (len(batches[0][0]), 1 + NEGATIVES))
    negatives[:, 0] = batches[0][2]
    return negatives


def prepare(scene: Scene, method: str) -> Loop | None:
    """The loop of a method."""
    return BoxLoop(scene, method) if method in METHODS else None


if __name__ == "__main__":
    serve("torchdistill", prepare)
