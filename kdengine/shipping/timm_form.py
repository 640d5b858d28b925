"""The student in the form in which timm publishes networks, where it is one of timm's."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdengine.config.specs import Spec
from kdengine.errors import ModelError, cause
from kdengine.networks.weights import only_weights
from kdengine.runs.past_student import PastStudent
from kdengine.seeds import seeded
from kdengine.taps.tensors import first_tensor

__all__ = ["CONFIG", "package_of", "write_in_timm_form"]

CONFIG = "config.json"
OF_LOADING = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir", "checkpoint_path", "num_classes")
"""Options of a spec that say where weights come from, or that timm stores elsewhere."""
OF_OTHERS = (
    *("url", "file", "hf_hub_id", "hf_hub_filename", "source", "state_dict", "tag", "custom_load"),
    *("license", "origin_url", "paper_name", "paper_ids", "notes", "description"),
    *("test_input_size", "test_crop_pct", "test_pool_size", "min_input_size", "label_offset"),
)
"""Entries of timm's configuration that are about the weights that a network started from, and not about these."""
CHECKED = 2
"""Random images on which the network that timm builds is compared with the student."""


def write_in_timm_form(student: PastStudent, folder: Path) -> str | None:
    """Write ``config.json`` and the weights, so that ``timm.create_model("hf-hub:...")`` builds the network.

    The folder is then loaded by timm, and the network compared with the student bit by bit.

    Args:
        student: the student.
        folder: receives the files.

    Returns:
        None if timm gives the same network; else why it does not. No configuration is left then.
    """
    import timm

    network = student.network
    architecture = (getattr(network, "pretrained_cfg", None) or {}).get("architecture")
    if not architecture or not timm.is_model(architecture):
        return "it is no network of timm"
    try:
        with _quiet():
            _write_config(student, architecture, folder)
            difference = _difference(student, folder)
    except Exception as error:  # of a library; what it says is told
        difference = cause(error)[:300]
    if difference is not None:
        (folder / CONFIG).unlink(missing_ok=True)
    return difference


def package_of(network: nn.Module) -> str:
    """The package that registers a network with timm: ``timm`` itself, or one that must be imported first."""
    import timm

    architecture = getattr(network, "pretrained_cfg", {})["architecture"]
    return str(timm.models.model_entrypoint(architecture).__module__.partition(".")[0])


def _write_config(student: PastStudent, architecture: str, folder: Path) -> None:
    """Let timm write its files; what older versions leave out of the configuration is put in."""
    from timm.models import save_for_hf

    preprocess = _preprocess(student)
    source: Any = student.network.pretrained_cfg
    kept = {name: value for name, value in source.items() if value is not None and name not in OF_OTHERS}
    names = list(student.output_names)
    config = {"pretrained_cfg": {**kept, "architecture": architecture, **preprocess}, "label_names": names}
    arguments = _arguments(student)
    named = {key: value for key, value in config.items() if value}
    save_for_hf(student.network, str(folder), model_config=named, model_args=arguments, safe_serialization=True)
    file = folder / CONFIG
    written = json.loads(file.read_text(encoding="utf-8"))
    written["model_args"] = {**arguments, **written.get("model_args", {})}
    own = {name: value for name, value in written["pretrained_cfg"].items() if name not in OF_OTHERS}
    written["pretrained_cfg"] = {**own, **preprocess}
    file.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")


def _arguments(student: PastStudent) -> dict[str, Any]:
    """What the factory must be given to build the network again."""
    options = Spec.parse(student.settings.student, ModelError).options
    given = {name: value for name, value in options.items() if name not in OF_LOADING}
    channels = student.preprocess.wanted.size[0]
    return {**given, **({} if channels == 3 else {"in_chans": channels})}


def _preprocess(student: PastStudent) -> Mapping[str, Any]:
    """How images become what the network takes, as timm writes it."""
    wanted, given, fitting = student.preprocess.wanted, student.preprocess.given, student.data.test.fitting
    found = {"mean": wanted.mean or given.mean, "std": wanted.std or given.std}
    return {
        "input_size": list(wanted.size),
        "interpolation": fitting.interpolation,
        "crop_pct": fitting.crop,
        "crop_mode": "center",
        **{name: list(values) for name, values in found.items() if values},
    }


def _difference(student: PastStudent, folder: Path) -> str | None:
    """Why the network that timm builds from the folder is not the student; None if it is, bit for bit."""
    import timm

    with seeded(0), only_weights():
        images = torch.randn(CHECKED, *student.preprocess.wanted.size)
        made = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    ours, theirs = student.network.state_dict(), made.state_dict()
    unlike = [name for name in {**ours, **theirs} if not _equal(ours.get(name), theirs.get(name))]
    if unlike:
        return f"timm builds another network: '{unlike[0]}' differs"
    with torch.no_grad():
        answers = [first_tensor(network(images)) for network in (student.network.cpu().float().eval(), made)]
    return None if _equal(*answers) else "the network that timm builds gives other outputs"


def _equal(one: Tensor | None, other: Tensor | None) -> bool:
    return one is not None and other is not None and torch.equal(one.cpu(), other.cpu())


@contextmanager
def _quiet() -> Iterator[None]:
    """Inside, timm does not warn; what it makes is checked instead."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
