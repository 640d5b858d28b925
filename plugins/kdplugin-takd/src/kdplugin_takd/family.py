"""Choosing an assistant: the network of the same family whose size is midway between teacher and student."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterable

import timm
import torch

__all__ = ["between", "middle_of"]


def middle_of(teacher: str, student: str) -> str:
    """Spec of the best assistant that timm has for two networks, or ``"student"``: another network of the student's kind.

    The best one's number of parameters lies between theirs and is nearest to their geometric mean. Options that both specs
    share apply to it too, except pretrained weights.

    Args:
        teacher: model spec, such as ``timm:resnet32``.
        student: model spec, such as ``resnet8@drop_rate=0.1``.
    """
    names = _architecture(teacher), _architecture(student)
    candidates = between(*names, timm.list_models())
    if not candidates:
        return "student"
    large, small = sorted(map(_parameters, names), reverse=True)
    sizes = {name: _parameters(name) for name in candidates}
    fit = [name for name, size in sizes.items() if small < size < large]
    if not fit:
        return "student"
    best = min(fit, key=lambda name: abs(math.log(sizes[name]) - math.log(large * small) / 2))
    return "@".join([f"timm:{best}", *_shared_options(teacher, student)])


def between(one: str, other: str, names: Iterable[str]) -> list[str]:
    """Those of ``names`` that differ from both networks in one number, which lies strictly between theirs; sorted by it.

    >>> between("resnet32", "resnet8", ["resnet8", "resnet14", "resnet20", "resnet32", "resnet20x4"])
    ['resnet14', 'resnet20']
    """
    names = set(names)
    parts, others = (re.split(r"(\d+)", name) for name in (one, other))
    places = [number for number, pair in enumerate(zip(parts, others, strict=False)) if pair[0] != pair[1]]
    if not {one, other} <= names or len(parts) != len(others) or len(places) != 1 or places[0] % 2 == 0:
        return []
    (place,) = places
    low, high = sorted((int(parts[place]), int(others[place])))
    family = re.compile(re.escape("".join(parts[:place])) + r"(\d+)" + re.escape("".join(parts[place + 1 :])))
    numbers = {name: int(found[1]) for name in names if (found := family.fullmatch(name))}
    return sorted((name for name, number in numbers.items() if low < number < high), key=lambda name: (numbers[name], name))


def _architecture(spec: str) -> str:
    """The timm name of a spec's network, without its pretrained tag; empty if it is not timm's."""
    scheme, colon, name = spec.partition("@")[0].strip().rpartition(":")
    return name.partition(".")[0] if scheme == "timm" or not colon else ""


def _parameters(name: str) -> int:
    """Number of parameters of a timm network with ten classes; allocates nothing and draws no random numbers."""
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        return sum(parameter.numel() for parameter in timm.create_model(name, num_classes=10).parameters())


def _shared_options(teacher: str, student: str) -> list[str]:
    options = [spec.split("@")[1:] for spec in (teacher, student)]
    return [option for option in options[0] if option in options[1] and option.partition("=")[0].strip() != "pretrained"]
