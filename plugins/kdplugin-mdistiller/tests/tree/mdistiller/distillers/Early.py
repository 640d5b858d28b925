import torch
import torch.nn.functional as F
from torch import nn

from ._base import Distiller


class Early(Distiller):
    """Maps before their activations, through one convolution a stage; a scale that is not trained, in a plain list."""

    def __init__(self, student, teacher, cfg):
        super().__init__(student, teacher)
        self.weight = cfg.EARLY.WEIGHT
        size = cfg.EARLY.KERNEL_SIZE
        pairs = zip(student.get_stage_channels()[1:], teacher.get_stage_channels()[1:], strict=True)
        self.connectors = nn.ModuleList(nn.Conv2d(s, t, size, padding=size // 2) for s, t in pairs)
        self.scales = [nn.Parameter(torch.full((1,), 2.0)) for _ in self.connectors]

    def get_learnable_parameters(self):
        return super().get_learnable_parameters() + list(self.connectors.parameters())

    def forward_train(self, image, target, **kwargs):
        logits_student, features_student = self.student(image)
        with torch.no_grad():
            _, features_teacher = self.teacher(image)
        loss = 0
        for number, (s, t) in enumerate(
            zip(features_student["preact_feats"][1:], features_teacher["preact_feats"][1:], strict=True)
        ):
            mapped = self.connectors[number](F.adaptive_avg_pool2d(s, t.shape[-2:]))
            loss += self.scales[number] * (mapped - t).pow(2).mean()
        return logits_student, {"loss_ce": F.cross_entropy(logits_student, target), "loss_kd": self.weight * loss}
