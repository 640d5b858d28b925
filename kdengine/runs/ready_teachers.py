"""Getting the teachers of a session ready to teach, and what is known about them then."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdengine.config.settings import Settings
from kdengine.errors import ModelError
from kdengine.networks.fingerprint import fingerprint
from kdengine.networks.flops import count_flops
from kdengine.networks.models import count_parameters
from kdengine.networks.modes import evaluating
from kdengine.networks.network import Network
from kdengine.runs.session import Session
from kdengine.runs.teacher_cache import CachedTeacher
from kdengine.runs.teachers import Teacher
from kdengine.taps.tensors import first_tensor, logits_of
from kdengine.tasks.task import Task
from kdengine.training.evaluation import evaluate

__all__ = ["Ensemble", "Train", "ready_teachers", "weights_trained"]

log = logging.getLogger(__name__)
Train = Callable[[Settings, Path], None]
"""Trains a network with the given settings into a folder."""


class Ensemble(nn.Module):
    """Several networks as one, whose output is what they say together.

    Args:
        networks: take the images of the data; all in training or all in evaluation.
        task: joins their outputs.
    """

    def __init__(self, networks: Sequence[nn.Module], task: Task) -> None:
        super().__init__()
        self.members = nn.ModuleList(networks)
        self.task = task
        self.train(all(network.training for network in networks))  # a new module trains; its members must stay as they are

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] of the data -> the joint output."""
        return self.task.join([logits_of(member(images)) for member in self.members])


def ready_teachers(session: Session, needed: bool, train: Train) -> dict[str, Any] | None:
    """Train or load every teacher that has no weights, evaluate them, and return facts about them; None without a teacher.

    One teacher gives its own facts; several give those of the ensemble, with the facts of each under ``members``.

    Args:
        session: data, device and teachers.
        needed: whether any lane learns from them.
        train: trains a teacher.

    Raises:
        ModelError: one has no weights and cannot be trained here.
    """
    members = [_ready(teacher, session, needed, train) for teacher in session.teachers]
    if len(members) < 2:
        return members[0] if members else None
    return {"name": session.settings.taught_by, **_together(session, members), "members": members}


def weights_trained(facts: Mapping[str, Any] | None, settings: Settings) -> Settings:
    """The settings with the weights of the teachers that were trained first, so that a run can be repeated alone."""
    if facts is None:
        return settings
    members = facts.get("members", [facts])
    folders = [member.get("folder") for member in members]
    if not any(folders):
        return settings
    paths = [
        given if folder is None else str(Path(folder) / "student.safetensors")
        for folder, given in zip(folders, settings.weights_of_teachers, strict=True)
    ]
    return settings.with_teacher_weights(paths)


def _ready(teacher: Teacher, session: Session, needed: bool, train: Train) -> dict[str, Any]:
    """One teacher's scores, size and identity."""
    network, headline = teacher.network, session.task.scoring.headline.name
    facts: dict[str, Any] = {headline: None, f"best_{headline}": None}
    if not teacher.is_trained_first:
        if session.data.test is not None and not session.task.measured_by_teacher:
            log.info("Evaluating the teacher %s", network.name)
        facts = _measured(network.preprocessed, session)
    elif needed:
        facts = dict(_cached(teacher, session, train))
    else:
        log.info("Not training the teacher %s: no lane learns from its weights", network.name)
    if needed:
        _check_finite(teacher)
    sizes = {"parameters": count_parameters(network.module), "flops": count_flops(network.module, network.input_size)}
    identity = {"fingerprint": fingerprint(network.module), "input": network.preprocess.wanted.describe()}
    lossy = session.settings.teacher_store.lossy
    return {"name": network.name, **facts, **sizes, **identity, **({"lossy": lossy} if lossy else {})}


def _check_finite(teacher: Teacher) -> None:
    """Refuse a teacher that nobody can learn from; its scores may look like those of a guess.

    Raises:
        ModelError: a weight is not finite, or what a teacher that was trained here makes of an image.
    """
    network, ours = teacher.network, teacher.is_trained_first
    state = network.module.state_dict().values()
    if all(bool(value.isfinite().all()) for value in state if value.is_floating_point()) and not (ours and _overflows(network)):
        return
    fix = "Lower teacher_train.lr" if ours else "Give other weights"
    raise ModelError(
        f"The weights or outputs of the teacher '{network.name}' are not finite: nothing can be learnt from it. {fix}."
    )


def _overflows(network: Network) -> bool:
    """Whether finite weights make something infinite of an image; a user's own module is not run for this."""
    weight = next(network.module.parameters(), torch.empty(0))
    image = torch.ones(1, *network.input_size, dtype=weight.dtype, device=weight.device)
    with evaluating(network.module) as module:
        answer = first_tensor(module(image))
    return answer is not None and not bool(answer.isfinite().all())


def _measured(network: nn.Module, session: Session) -> dict[str, Any]:
    """The scores of a network that is no longer trained; of the headline, nothing where there is nothing to measure it by."""
    headline, data = session.task.scoring.headline.name, session.data
    if data.test is None or session.task.measured_by_teacher:
        return {headline: None, f"best_{headline}": None}
    facts: dict[str, Any] = dict(evaluate(network, data.test, session.task, session.runtime))
    return {**facts, f"best_{headline}": facts[headline]}


def _together(session: Session, members: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What several teachers are together: joint scores, and sums of their sizes and of the time that they took."""
    headline = session.task.scoring.headline.name
    facts: dict[str, Any] = {headline: None, f"best_{headline}": None}
    if all(member[headline] is not None for member in members):
        log.info("Evaluating the %d teachers together", len(members))
        facts = _measured(Ensemble([one.network.preprocessed for one in session.teachers], session.task), session)
    seconds = [member["seconds"] for member in members if "seconds" in member]
    flops = [member["flops"] for member in members]
    prints = " ".join(member["fingerprint"] for member in members)
    return {
        **facts,
        **({"seconds": round(sum(seconds), 2)} if seconds else {}),
        "parameters": sum(member["parameters"] for member in members),
        "flops": None if None in flops else sum(flops),
        "fingerprint": hashlib.sha256(prints.encode()).hexdigest()[:16],
    }


def _cached(teacher: Teacher, session: Session, train: Train) -> Mapping[str, Any]:
    """Load the weights of a teacher from the cache, where it is trained first if it is not there."""
    network, data, ours = teacher.network, session.data.dataset, session.settings
    if session.task.measured_by_teacher:
        raise ModelError(
            f"The teacher '{network.name}' has no weights, and the task '{session.task.name}' has no targets to train it by. "
            "Give --teacher-weights (in Python, teacher_weights), or a pretrained network such as timm:NAME@pretrained=true."
        )
    if data is None:
        raise ModelError(
            f"The teacher '{network.name}' has no weights, and it cannot be trained automatically with your own loaders. "
            "Give teacher_weights, or a trained module."
        )
    seed = (ours.seed + teacher.named.repeats) % 2**32
    own = {"seed": seed, "train": ours.teacher_training, "student_input": ours.teacher_input, "task": ours.task}
    settings = Settings(student=network.name, data=data.name, **own)
    followed = session.followed(network, teacher.role, settings.train).settings
    cached = CachedTeacher(settings.model_copy(update={"train": followed}), data, session.runtime.precision, network.preprocess)
    return cached.fetch(network.module, lambda folder: train(settings, folder))
