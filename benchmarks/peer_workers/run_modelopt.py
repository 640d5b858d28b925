"""The worker of nvidia-modelopt: a model converted to distillation, in the loop that its documentation shows."""

from __future__ import annotations

import modelopt.torch.distill as mtd
import torch
import torch.nn.functional as F
from protocol import LR, MOMENTUM, Loop, Scene, serve
from torch import nn

METHODS = {
    "st": lambda: (mtd.LogitsDistillationLoss(temperature=4.0, reduction="batchmean"), 0.9),
    "fitnet": lambda: ({("layer2", "layer2"): nn.MSELoss()}, 0.5),
    "embedding": lambda: ({("flatten", "flatten"): nn.MSELoss()}, 0.5),
    "mgd": lambda: ({("layer3", "layer3"): mtd.MGDLoss(64, 64, alpha_mgd=1.0, lambda_mgd=0.65)}, 0.5),
}
"""method -> criterion, and its share of the loss; the task has the rest."""


class ConvertedLoop:
    """``mtd.convert`` and ``compute_kd_loss``."""

    def __init__(self, scene: Scene, method: str) -> None:
        criterion, share = METHODS[method]()
        config = {
            "teacher_model": scene.network("teacher"),
            "criterion": criterion,
            "loss_balancer": mtd.StaticLossBalancer(kd_loss_weight=share),
        }
        self.model = mtd.convert(scene.network("student"), mode=[("kd_loss", config)])
        self.model.train()
        self.scale = 1.0 if method == "st" else 2.0  # the balancer's weights sum to 1; those compared with do to 2
        self.optimizer = torch.optim.SGD([p for p in self.model.parameters() if p.requires_grad], LR, momentum=MOMENTUM)
        self.batches = scene.endless()

    def step(self) -> dict[str, float]:
        """One step; its total loss."""
        x, y, _ = next(self.batches)
        self.optimizer.zero_grad()
        output = self.model(x)
        loss = self.model.compute_kd_loss(student_loss=F.cross_entropy(output, y))
        loss.backward()
        self.optimizer.step()
        return {"total": self.scale * float(loss)}


def prepare(scene: Scene, method: str) -> Loop | None:
    """The loop of a method."""
    return ConvertedLoop(scene, method) if method in METHODS else None


if __name__ == "__main__":
    serve("nvidia-modelopt", prepare)
