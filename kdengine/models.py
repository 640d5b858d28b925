"""From a model spec such as ``"timm:resnet50"`` to a network that fits the data."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdengine.errors import ModelError, did_you_mean
from kdengine.registry import Registry
from kdengine.specs import Spec, import_factory

__all__ = ["ModelSource", "count_flops", "count_parameters", "load_weights"]


@dataclass(frozen=True)
class ModelSource:
    """Where networks of one kind come from: :meth:`create` makes as many as are needed.

    Attributes:
        text: the spec.
        num_classes: classes of the data.
        input_size: shape of one image, (C, H, W).
        registry: finds the networks that plugins offer.
    """

    text: str
    num_classes: int
    input_size: tuple[int, int, int]
    registry: Registry

    def create(self, seed: int) -> nn.Module:
        """A network whose fresh weights depend on the seed alone; the global random state is left as it was.

        Raises:
            ModelError: the spec names nothing, or the network cannot be built for the data.
        """
        spec = Spec.parse(self.text, ModelError)
        build = _BUILDERS.get(spec.scheme)
        if build is None:
            raise ModelError(f"'{self.text}': there is no scheme '{spec.scheme}:'. A network is one of {FORMS}.")
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(seed)
            model = build(self, spec)
        if not isinstance(model, nn.Module):
            raise ModelError(f"'{self.text}' made a {type(model).__name__}, not a torch.nn.Module.")
        return model

    @property
    def brings_weights(self) -> bool:
        """Whether the spec asks for pretrained weights whose classes are those of the data."""
        spec = Spec.parse(self.text, ModelError)
        if spec.scheme == "hf-hub":
            return True
        if not (spec.options.get("pretrained") or spec.options.get("weights")):
            return False
        return spec.scheme != "timm" or self._pretrained_classes(spec.name) == self.num_classes

    def _pretrained_classes(self, name: str) -> int | None:
        import timm

        config = timm.models.get_pretrained_cfg(name)
        classes: int | None = None if config is None else config.num_classes
        return classes


FORMS = "timm:NAME, torchvision:NAME, hf-hub:NAME, python:module:factory, or a bare name of an installed zoo"


def _from_timm(source: ModelSource, spec: Spec) -> Any:
    import timm

    name = spec.name if spec.scheme == "timm" else f"hf-hub:{spec.name}"
    options = {"num_classes": source.num_classes, **spec.options}
    if spec.scheme == "timm" and not timm.is_model(name):
        source.registry.model(name)  # a plugin that offers the network registers it with timm as well
        if not timm.is_model(name):
            near = did_you_mean(name, timm.list_models())
            raise ModelError(f"timm has no model '{name}'. {near} 'kdengine models {name[:4]}' searches for more.")
    if spec.scheme == "hf-hub":
        options = {"pretrained": True, **options}
    if source.input_size[0] != 3:
        options.setdefault("in_chans", source.input_size[0])
    return _sized(lambda **sized: timm.create_model(name, **options, **sized), source, options)


def _sized(create: Any, source: ModelSource, options: Mapping[str, Any]) -> Any:
    """Build with timm's ``img_size`` where the network takes it (transformers fix their grid), else without."""
    size = source.input_size[1:]
    if "img_size" in options:
        return _built(create, source)
    try:
        model = create()
        default = tuple(getattr(model, "pretrained_cfg", {}).get("input_size", (0, 0, 0))[1:])
        if default == size or not getattr(model, "pretrained_cfg", {}).get("fixed_input_size"):
            return model
        return create(img_size=size)
    except Exception as error:  # a network may refuse in any way
        raise _cannot_build(source, error) from error


def _built(create: Any, source: ModelSource, **options: Any) -> Any:
    try:
        return create(**options)
    except Exception as error:  # a network may refuse in any way
        raise _cannot_build(source, error) from error


def _cannot_build(source: ModelSource, error: Exception) -> ModelError:
    shape = ", ".join(map(str, source.input_size))
    return ModelError(
        f"'{source.text}' cannot be built for {source.num_classes} classes and images of [{shape}]: "
        f"{type(error).__name__}: {error}. Options are written NAME@KEY=VALUE."
    )


def _from_torchvision(source: ModelSource, spec: Spec) -> Any:
    import torchvision

    names = torchvision.models.list_models(module=torchvision.models)
    if spec.name not in names:
        raise ModelError(f"torchvision has no model '{spec.name}'. {did_you_mean(spec.name, names)}")
    options = {"num_classes": source.num_classes, **spec.options}
    return _built(torchvision.models.get_model, source, name=spec.name, **options)


def _from_python(source: ModelSource, spec: Spec) -> Any:
    factory = import_factory(spec.name, ModelError)
    offered = {"num_classes": source.num_classes, "in_chans": source.input_size[0], "img_size": source.input_size[1]}
    accepted = inspect.signature(factory).parameters
    fitting = {name: value for name, value in offered.items() if name in accepted}
    return _built(factory, source, **{**fitting, **spec.options})


def _from_zoo(source: ModelSource, spec: Spec) -> Any:
    factory = source.registry.model(spec.name)
    if factory is None:
        raise ModelError(_unknown_bare(source.registry, spec.name))
    options = {"num_classes": source.num_classes, "in_chans": source.input_size[0], **spec.options}
    return _built(factory, source, **options)


def _unknown_bare(registry: Registry, name: str) -> str:
    import timm
    import torchvision

    schemes = {"timm": timm.list_models(), "torchvision": torchvision.models.list_models()}
    elsewhere = [f"'{scheme}:{name}'" for scheme, names in schemes.items() if name in names]
    zoo = registry.offered("models")
    near = f"Did you mean {' or '.join(elsewhere)}?" if elsewhere else did_you_mean(name, zoo)
    near = near or f"A network is one of {FORMS}."
    return f"There is no network '{name}'. {near} 'kdengine models' lists them."


_BUILDERS = {
    "": _from_zoo,
    "timm": _from_timm,
    "hf-hub": _from_timm,
    "torchvision": _from_torchvision,
    "python": _from_python,
}


def load_weights(model: nn.Module, path: str | Path, what: str) -> None:
    """Load weights, from safetensors or from a ``.pth`` read with ``weights_only=True``.

    Args:
        model: receives the weights.
        path: the file; a state dict, or a mapping that holds one under ``state_dict`` or ``model``.
        what: what errors call the network.

    Raises:
        ModelError: the file is missing, unreadable, or does not fit the network.
    """
    file = Path(path)
    if not file.is_file():
        raise ModelError(f"There is no file of weights '{path}'.")
    state = _read_state(file)
    wanted = model.state_dict()
    problems = _misfits(wanted, state)
    if problems:
        shown = "; ".join(problems[:3]) + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")
        raise ModelError(f"The weights in '{path}' do not fit {what}: {shown}. Was it another network, or other classes?")
    model.load_state_dict(state)


def _read_state(file: Path) -> dict[str, torch.Tensor]:
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # readers fail in many ways
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"'{file}' holds no weights that can be read safely: {first_line}") from error
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ModelError(f"'{file}' holds no state dict: a mapping of names to tensors is needed.")
    return {key.removeprefix("module.").removeprefix("_orig_mod."): value for key, value in state.items()}


def _misfits(wanted: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]) -> list[str]:
    missing = [f"'{name}' is missing" for name in wanted if name not in state]
    surplus = [f"'{name}' is not in the network" for name in state if name not in wanted]
    shapes = [
        f"'{name}' is {list(state[name].shape)} in the file, {list(value.shape)} in the network"
        for name, value in wanted.items()
        if name in state and state[name].shape != value.shape
    ]
    return shapes + missing + surplus


def count_parameters(model: nn.Module) -> int:
    """Number of trainable values."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_flops(model: nn.Module, input_size: tuple[int, int, int]) -> int | None:
    """Floating-point operations of one forward of one image (a multiply-add is two); None where it cannot be traced."""
    from torch.utils.flop_counter import FlopCounterMode

    from kdengine.taps.probe import copy_to

    try:
        twin = copy_to("meta", model).eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            twin(torch.zeros(1, *input_size, device="meta"))
    except Exception:  # some networks cannot run without values
        return None
    return int(counter.get_total_flops())
