import torch
import torch.nn.functional as F

from ._base import Distiller


def soft_loss(student, teacher, temperature):
    log_q = F.log_softmax(student / temperature, dim=1)
    p = F.softmax(teacher / temperature, dim=1)
    return F.kl_div(log_q, p, reduction="batchmean") * temperature**2


class Soft(Distiller):
    """Soft targets in the tree's form."""

    def __init__(self, student, teacher, cfg):
        super().__init__(student, teacher)
        self.temperature = cfg.SOFT.TEMPERATURE
        self.ce_weight = cfg.SOFT.LOSS.CE_WEIGHT
        self.kd_weight = cfg.SOFT.LOSS.KD_WEIGHT

    def forward_train(self, image, target, **kwargs):
        logits_student, _ = self.student(image)
        with torch.no_grad():
            logits_teacher, _ = self.teacher(image)
        loss_ce = self.ce_weight * F.cross_entropy(logits_student, target)
        loss_kd = self.kd_weight * soft_loss(logits_student, logits_teacher, self.temperature)
        return logits_student, {"loss_ce": loss_ce, "loss_kd": loss_kd}
