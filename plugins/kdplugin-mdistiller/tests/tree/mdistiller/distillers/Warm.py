import torch
import torch.nn.functional as F
from torch import nn

from ._base import Distiller


class Warm(Distiller):
    """Embeddings, with a weight that grows over the first epochs, and the mean embedding of every image."""

    def __init__(self, student, teacher, cfg, num_data):
        super().__init__(student, teacher)
        self.epochs = cfg.WARM.EPOCHS
        _, features = teacher(torch.zeros(2, 3, 32, 32))
        self.embed = nn.Linear(student.get_stage_channels()[-1], features["pooled_feat"].shape[1])
        self.register_buffer("seen", torch.zeros(num_data))

    def get_learnable_parameters(self):
        return super().get_learnable_parameters() + list(self.embed.parameters())

    def forward_train(self, image, target, index, **kwargs):
        logits_student, features_student = self.student(image)
        with torch.no_grad():
            _, features_teacher = self.teacher(image)
        self.seen[index] += 1
        loss = (self.embed(features_student["pooled_feat"]) - features_teacher["pooled_feat"]).pow(2).sum(1).mean()
        warm = min(kwargs["epoch"] / self.epochs, 1.0)
        return logits_student, {"loss_ce": F.cross_entropy(logits_student, target), "loss_kd": (warm * loss).reshape(1)}
