"""What students cost where they run: latency, memory, parameters and FLOPs, beside those of their teachers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdengine.config.settings import Settings
from kdengine.config.specs import Spec
from kdengine.config.trust import names_code
from kdengine.errors import KDError, ModelError, StorageError
from kdengine.networks.flops import count_flops
from kdengine.networks.inputs import ImageSpec, Preprocess
from kdengine.networks.models import ModelSource, count_parameters
from kdengine.networks.preprocess import preprocess_for
from kdengine.runs.past_student import PastStudent
from kdengine.runs.past_weights import input_of_run
from kdengine.runs.ready_teachers import Ensemble
from kdengine.runs.teachers import Named, named_teachers
from kdengine.shipping.latency import ROUNDS, measured
from kdengine.shipping.peak_memory import peak_bytes
from kdengine.storage.names import BENCHMARK
from kdengine.storage.writing import write_json
from kdengine.training.runtime import Runtime

__all__ = ["benchmark"]

log = logging.getLogger(__name__)


def benchmark(
    folders: Sequence[str | Path],
    batch: int = 64,
    device: str = "auto",
    weights: str = "last",
    trust: bool = False,
    rounds: int = ROUNDS,
) -> list[dict[str, Any]]:
    """Measure the students of finished runs, and their teachers, and write ``benchmark.json`` into each folder.

    Forwards run in fp32 without gradients, on random images of the size that the network receives, one at a time and in
    batches. All networks take turns, so that they can be compared.

    Args:
        folders: run folders.
        batch: images in a batch, besides 1.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        weights: ``"last"``, ``"best"`` or ``"ema"``, the moving average.
        trust: run third-party code that the folders name.
        rounds: rounds of measurements.

    Returns:
        the content of each ``benchmark.json``, with its ``folder``.

    Raises:
        KDError: a folder holds no finished run, or its student cannot be rebuilt.
    """
    runtime = Runtime(device, "fp32", alone=True)
    teachers: dict[Any, _Candidate] = {}
    pairs = [_pair(folder, weights, trust, teachers) for folder in folders]
    candidates = list({id(one): one for pair in pairs for one in pair if one is not None}.values())
    sizes = sorted({1, batch})
    _measure(candidates, sizes, runtime, rounds)
    described = runtime.describe()
    facts = {
        **{name: described[name] for name in ("device", "device_name", "threads", "precision")},
        "torch": torch.__version__,
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "rounds": rounds,
        "batches": sizes,
    }
    results = []
    for folder, (student, teacher) in zip(folders, pairs, strict=True):
        content = {**facts, "weights": weights, "student": student.facts, "teacher": teacher.facts if teacher else None}
        _keep(Path(folder), content)
        results.append({"folder": str(folder), **content})
    return results


@dataclass(frozen=True)
class _Candidate:
    """A network to measure, and what was found."""

    network: nn.Module
    input_size: tuple[int, int, int]
    facts: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, network: nn.Module, input_size: tuple[int, int, int]) -> _Candidate:
        sizes = {"parameters": count_parameters(network), "flops": count_flops(network, input_size)}
        return cls(network.eval(), input_size, {"name": name, **sizes, "input_size": list(input_size)})


def _pair(
    folder: str | Path, weights: str, trust: bool, teachers: dict[Any, _Candidate]
) -> tuple[_Candidate, _Candidate | None]:
    """The student of a run, and its teacher if it can be built; several teachers are one candidate."""
    student = PastStudent.open(folder, weights, trust=trust, device="cpu", images=False)
    settings = student.settings
    own = _Candidate.of(settings.student, student.network, student.preprocess.wanted.size)
    own.facts["file_bytes"] = student.file.stat().st_size
    if settings.teacher is None:
        return own, None
    as_module = any(teacher.startswith("module:") for teacher in settings.teachers)
    if as_module or (names_code({"teacher": settings.teachers}) and not trust):
        log.info("%s: the teacher %s is left out; it cannot be built from the folder", folder, settings.taught_by)
        return own, None
    try:
        return own, _teacher(student, teachers)
    except KDError as error:  # a teacher costs nothing after training: the student is measured without it
        log.warning("%s: the teacher is left out: %s", folder, error)
        return own, None


def _teacher(student: PastStudent, teachers: dict[Any, _Candidate]) -> _Candidate:
    """The architecture of a run's teacher; its weights do not matter here, so none are loaded.

    Several teachers run one after the other on images of the data, and give one output, as they do in training.
    """
    settings, data = student.settings, student.data
    images = ImageSpec(data.input_size, data.mean or None, data.std or None)
    named = list(named_teachers(settings))
    inputs = [_input(one, images, settings) for one in named]
    key = (*((one.spec, preprocess.wanted) for one, preprocess in zip(named, inputs, strict=True)), student.task.num_outputs)
    if key in teachers:
        return teachers[key]
    networks = [_made(one.spec, preprocess, student) for one, preprocess in zip(named, inputs, strict=True)]
    if len(networks) == 1:
        teachers[key] = _Candidate.of(named[0].spec, networks[0], inputs[0].wanted.size)
    else:
        whole = [preprocess.before(network) for preprocess, network in zip(inputs, networks, strict=True)]
        teachers[key] = _Candidate.of(settings.taught_by, Ensemble(whole, student.task), data.input_size)
    return teachers[key]


def _input(teacher: Named, images: ImageSpec, settings: Settings) -> Preprocess:
    """What is done to the images of the data before a teacher receives them."""
    trained_on = None if teacher.weights is None else input_of_run(teacher.weights)
    return preprocess_for(teacher.spec, images, settings.teacher_input, "teacher_input", trained_on)


def _made(name: str, preprocess: Preprocess, student: PastStudent) -> nn.Module:
    source = ModelSource(_without_weights(name), student.task.network_options(), preprocess.wanted.size, student.registry)
    return source.create(0)


def _without_weights(name: str) -> str:
    """A spec without the request for pretrained weights, which would be downloaded."""
    spec = Spec.parse(name, ModelError)
    head, *options = name.strip().split("@")
    kept = [option for option in options if option.partition("=")[0] not in ("pretrained", "weights", "weights_backbone")]
    return name if spec.scheme in ("", "python", "hf-hub") else "@".join([head, *kept])


def _measure(candidates: Sequence[_Candidate], sizes: Sequence[int], runtime: Runtime, rounds: int) -> None:
    """Add peak memory and latency to the facts of all candidates."""
    calls: list[Callable[[], object]] = []
    for one in candidates:
        runtime.place(one.network)
        images = [runtime.layout(torch.randn(count, *one.input_size)).to(runtime.device) for count in sizes]
        one.facts["peak_bytes"] = {str(len(some)): peak_bytes(one.network, some) for some in images}
        calls += [_forward(one.network, some) for some in images]
    found = iter(measured(calls, _waiting(runtime.device), rounds))
    for one in candidates:
        one.facts["latency_ms"] = {str(count): next(found).to_dict() for count in sizes}


def _forward(network: nn.Module, images: Tensor) -> Callable[[], object]:
    def call() -> None:
        with torch.inference_mode():
            network(images)

    return call


def _waiting(device: torch.device) -> Callable[[], object]:
    """Waits for all that was given to a device."""
    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    return torch.mps.synchronize if device.type == "mps" else lambda: None


def _keep(folder: Path, content: dict[str, Any]) -> None:
    """Store the numbers in the folder; one that cannot be written to is no reason to withhold them."""
    try:
        write_json(folder / BENCHMARK, content)
    except StorageError as error:
        log.warning("Reports will not show these numbers: %s", error)
