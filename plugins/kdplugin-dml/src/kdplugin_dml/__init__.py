"""Deep mutual learning: untrained networks teach each other while they learn the task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdengine import Distiller, Names, Pair, Registrar, Step, hookimpl

__all__ = ["DML", "mimicry_loss"]


def mimicry_loss(own_BK: Tensor, partner_BK: Tensor, temperature: float = 1.0, symmetric: bool = False) -> Tensor:
    """Mean over the batch of KL(p || q), p = softmax(partner / T), q = softmax(own / T); [].

    B: batch, K: classes.

    Args:
        own_BK: logits of the network that learns, [B, K].
        partner_BK: logits of the network that it learns from, [B, K]; they get no gradient.
        temperature: T > 0, dimensionless. The loss does not include the factor T^2.
        symmetric: use (KL(p || q) + KL(q || p)) / 2 instead.
    """
    log_q_BK = F.log_softmax(own_BK / temperature, dim=1)
    log_p_BK = F.log_softmax(partner_BK.detach() / temperature, dim=1)
    towards = F.kl_div(log_q_BK, log_p_BK, reduction="batchmean", log_target=True)
    if not symmetric:
        return towards
    return (towards + F.kl_div(log_p_BK, log_q_BK, reduction="batchmean", log_target=True)) / 2


class DML(Distiller):
    """Deep mutual learning: the student and its peers are trained together from scratch, each mimicking the others.

    Every network i of n: CE(z_i, y) + sum over j != i of KL(softmax(z_j) || softmax(z_i)) / (n - 1)

    Source: Zhang, Xiang, Hospedales, Lu, "Deep Mutual Learning", CVPR 2018, arXiv:1706.00384.
    """

    name = "dml"
    category = "response"
    groups = ("logits", "classic")
    taps = ()
    requires_teacher = False
    needs = ("labels",)
    presets: ClassVar = {"bhheo": {"symmetric": True}}

    class Options(Distiller.Options):
        """Options of mutual learning."""

        peers: Names = Field(("teacher",), min_length=1)
        """The peers, one or several with commas: model specs, or 'teacher' or 'student' for another network of that kind; in
        a run without a teacher, 'teacher' is one of the student's kind."""
        temperature: float = Field(1.0, gt=0)
        """Temperature T of all softmaxes in the divergence."""
        t_squared: bool = True
        """Multiply the divergence by T^2, so that its gradient does not shrink as T grows."""
        symmetric: bool = False
        """Average the divergences in both directions; each network still learns from its own side alone."""

        def model_post_init(self, context: Any) -> None:
            """Refuse taps."""
            if self.taps is not None:
                raise ValueError("taps: mutual learning compares outputs and reads no taps; leave this option out")

    options: Options

    def build(self, pair: Pair) -> None:
        """Make the peers with fresh weights; as submodules they are trained with the student."""
        alike = {} if pair.has_teacher else {"teacher": "student"}
        self.peers = nn.ModuleList(pair.new_network(alike.get(spec, spec)) for spec in self.options.peers)

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The terms ``mimic``, the student's divergence from its peers, and ``peers``, the whole loss of the peers."""
        cohort = [step.student.logits, *(step.logits_of(peer) for peer in self.peers)]
        mimic, *others = [self._mimicry(number, cohort) for number in range(len(cohort))]
        tasks = [F.cross_entropy(logits_BK, step.y) for logits_BK in cohort[1:]]
        return {"mimic": mimic, "peers": torch.stack([*tasks, *others]).sum()}

    def _mimicry(self, number: int, cohort: Sequence[Tensor]) -> Tensor:
        """Mean mimicry loss of one network of the cohort with respect to all others."""
        options = self.options
        partners = [logits_BK for other, logits_BK in enumerate(cohort) if other != number]
        losses = [mimicry_loss(cohort[number], partner, options.temperature, options.symmetric) for partner in partners]
        return (options.temperature**2 if options.t_squared else 1.0) * torch.stack(losses).mean()


@hookimpl
def kdengine_register(registry: Registrar) -> None:
    """Offer the method."""
    registry.distiller(DML)
