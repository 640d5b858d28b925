"""The worker of timm: its distillation tasks, in the loop that their documentation shows."""

from __future__ import annotations

import torch
from protocol import LR, MOMENTUM, Loop, Scene, serve
from timm.task import DistillationTeacher, FeatureDistillationTask, LogitDistillationTask
from torch import nn

TASKS = {
    "st": (LogitDistillationTask, {"task_loss_weight": 0.1, "temperature": 4.0}),
    "embedding": (FeatureDistillationTask, {"task_loss_weight": 1.0, "distill_loss_weight": 1.0}),
}


class TaskLoop:
    """``result = task(x, y); result["loss"].backward()``."""

    def __init__(self, scene: Scene, method: str) -> None:
        kind, options = TASKS[method]
        self.task = kind(
            student_model=scene.network("student"),
            teacher_model=DistillationTeacher(scene.network("teacher")),
            criterion=nn.CrossEntropyLoss(),
            verbose=False,
            **options,
        )
        self.task.train()
        self.optimizer = torch.optim.SGD(self.task.get_trainable_module().parameters(), LR, momentum=MOMENTUM)
        self.batches = scene.endless()

    def step(self) -> dict[str, float]:
        """One step; its total loss."""
        x, y, _ = next(self.batches)
        result = self.task(x, y)
        self.optimizer.zero_grad()
        result["loss"].backward()
        self.optimizer.step()
        return {"total": float(result["loss"])}


def prepare(scene: Scene, method: str) -> Loop | None:
    """The loop of a method."""
    return TaskLoop(scene, method) if method in TASKS else None


if __name__ == "__main__":
    serve("timm", prepare)
