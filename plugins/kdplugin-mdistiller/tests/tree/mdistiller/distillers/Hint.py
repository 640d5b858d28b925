import torch
import torch.nn.functional as F

from ._base import Distiller
from ._common import ConvReg, get_feat_shapes


class Hint(Distiller):
    """A hint through a regressor."""

    def __init__(self, student, teacher, cfg):
        super().__init__(student, teacher)
        self.weights = cfg.HINT.LOSS.CE_WEIGHT, cfg.HINT.LOSS.FEAT_WEIGHT
        self.layer = cfg.HINT.LAYER
        shapes_s, shapes_t = get_feat_shapes(self.student, self.teacher, cfg.HINT.INPUT_SIZE)
        self.conv_reg = ConvReg(shapes_s[self.layer], shapes_t[self.layer])

    def get_learnable_parameters(self):
        return super().get_learnable_parameters() + list(self.conv_reg.parameters())

    def get_extra_parameters(self):
        return sum(value.numel() for value in self.conv_reg.parameters())

    def forward_train(self, image, target, **kwargs):
        logits_student, features_student = self.student(image)
        with torch.no_grad():
            _, features_teacher = self.teacher(image)
        mapped = self.conv_reg(features_student["feats"][self.layer])
        loss_feat = F.mse_loss(mapped, features_teacher["feats"][self.layer])
        return logits_student, {
            "loss_ce": self.weights[0] * F.cross_entropy(logits_student, target),
            "loss_kd": self.weights[1] * loss_feat,
        }
