"""From a model spec such as ``"timm:resnet50"`` to a network that fits the data."""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from torch import nn

from kdengine.config.specs import Spec, import_factory
from kdengine.errors import ModelError, cause, did_you_mean
from kdengine.networks.weights import load_state_of_body, only_weights
from kdengine.plugins.registry import Registry
from kdengine.seeds import seeded

__all__ = ["ModelSource", "check_name", "count_parameters", "names_of_torchvision"]


FORMS = "timm:NAME, torchvision:NAME, hf-hub:NAME, python:module:factory, or a bare name of an installed zoo"


@dataclass(frozen=True)
class ModelSource:
    """Where networks of one kind come from: :meth:`create` makes as many as are needed.

    Attributes:
        text: the spec.
        options: what the task tells every factory: ``{"num_classes": K}``.
        input_size: shape of one image as the network receives it, (C, H, W).
        registry: finds the networks that plugins offer.
    """

    text: str
    options: Mapping[str, Any]
    input_size: tuple[int, int, int]
    registry: Registry

    def create(self, seed: int) -> nn.Module:
        """A network whose fresh weights depend on the seed alone; the global random state is left as it was.

        Raises:
            ModelError: the spec names nothing, or the network cannot be built for the data.
        """
        check_name(self.text, self.registry)
        spec = Spec.parse(self.text, ModelError)
        with seeded(seed), only_weights(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = self._built(spec)
        if not isinstance(model, nn.Module):
            raise ModelError(f"'{self.text}' made a {type(model).__name__}, not a torch.nn.Module.")
        return model

    def _built(self, spec: Spec) -> Any:
        try:
            return _BUILDERS.get(spec.scheme, _from_scheme)(self, spec)
        except (Exception, SystemExit) as error:  # a network may refuse in any way
            shape = ", ".join(map(str, self.input_size))
            outputs = ", ".join(f"{name}={value}" for name, value in self.options.items())
            raise ModelError(
                f"'{self.text}' cannot be built with {outputs} for images of [{shape}]: "
                f"{cause(error).rstrip('.')}. Options are written NAME@KEY=VALUE."
            ) from error

    @property
    def is_pretrained(self) -> bool:
        """Whether the spec asks for pretrained weights, be it for another number of outputs."""
        spec = Spec.parse(self.text, ModelError)
        if spec.scheme == "hf-hub":
            return bool(spec.options.get("pretrained", True))
        return any(spec.options.get(option) for option in ("pretrained", "weights", "weights_backbone"))

    @property
    def brings_weights(self) -> bool:
        """Whether the spec asks for pretrained weights for as many outputs as the task needs, or for a network without any."""
        spec = Spec.parse(self.text, ModelError)
        find = _CLASSES.get(spec.scheme, _none_of_scheme if spec.scheme not in _BUILDERS else None)
        wanted = self.options.get("num_classes")
        return self.is_pretrained and (find is None or not wanted or find(spec) == wanted)


def _none_of_scheme(spec: Spec) -> None:
    """Whatever stands behind a plugin's scheme, its head may be fresh."""


def _classes_of_timm(spec: Spec) -> int | None:
    """Number of classes that the pretrained weights of timm's network are for."""
    import timm

    config = timm.models.get_pretrained_cfg(spec.name)
    classes: int | None = None if config is None else config.num_classes
    return classes


def _classes_of_hub(spec: Spec) -> int | None:
    """Number of classes that a network of the hub is for."""
    import timm

    config, _, _ = timm.models.load_model_config_from_hf(spec.name)
    classes: int | None = config.get("num_classes")
    return classes


def _classes_of_torchvision(spec: Spec) -> int | None:
    """Number of classes that the pretrained weights of torchvision's network are for; None for those of a backbone alone."""
    return len(_weights_of_torchvision(spec).meta["categories"]) if spec.options.get("weights") else None


def _weights_of_torchvision(spec: Spec) -> Any:
    import torchvision

    return torchvision.models.get_model_weights(spec.name).verify(spec.options["weights"])


_CLASSES: Mapping[str, Callable[[Spec], int | None]] = {
    "timm": _classes_of_timm,
    "hf-hub": _classes_of_hub,
    "torchvision": _classes_of_torchvision,
}


def _from_timm(source: ModelSource, spec: Spec) -> Any:
    import timm

    options = {**source.options, **spec.options}
    if source.input_size[0] != 3:
        options.setdefault("in_chans", source.input_size[0])
    create = partial(timm.create_model, spec.name, **options)
    return create() if "img_size" in options else _sized(create, source.input_size[1:])


def _from_hub(source: ModelSource, spec: Spec) -> Any:
    import timm

    options = {"pretrained": True, **source.options, **spec.options}
    create = partial(timm.create_model, f"hf-hub:{spec.name}", **options)
    return create() if "img_size" in options else _sized(create, source.input_size[1:])


def _sized(create: Callable[..., Any], size: tuple[int, ...]) -> Any:
    """Build with timm's ``img_size`` where a network fixes its input (transformers fix their grid), else without."""
    model = create()
    config = getattr(model, "pretrained_cfg", None) or {}
    fits = tuple(config.get("input_size", (0, 0, 0))[1:]) == size
    return model if fits or not config.get("fixed_input_size") else create(img_size=size)


def _from_torchvision(source: ModelSource, spec: Spec) -> Any:
    import torchvision

    pixels = spec.name in torchvision.models.list_models(module=torchvision.models.segmentation)
    options = {**({"weights_backbone": None} if pixels else {}), **source.options, **spec.options}
    fits = _classes_of_torchvision(spec) == options.get("num_classes")
    if not spec.options.get("weights") or (fits and not pixels):
        return torchvision.models.get_model(spec.name, **options)
    # without weights, for it would refuse them for other classes, and add the auxiliary head of those for segmentation
    model = torchvision.models.get_model(spec.name, **{**options, "weights": None})
    weights = _weights_of_torchvision(spec)
    state = weights.get_state_dict(progress=False, check_hash=True)
    if getattr(model, "aux_classifier", None) is None:
        state = {name: value for name, value in state.items() if not name.startswith("aux_classifier.")}
    load_state_of_body(model, state, weights.url, f"'{source.text}'")
    return model


def _from_python(source: ModelSource, spec: Spec) -> Any:
    factory = import_factory(spec.name, ModelError)
    offered = {**source.options, "in_chans": source.input_size[0], "img_size": source.input_size[1]}
    accepted = inspect.signature(factory).parameters
    fitting = {name: value for name, value in offered.items() if name in accepted}
    return factory(**{**fitting, **spec.options})


def _from_zoo(source: ModelSource, spec: Spec) -> Any:
    factory = source.registry.model(spec.name)
    assert factory is not None
    return factory(**{**source.options, "in_chans": source.input_size[0], **spec.options})


def _from_scheme(source: ModelSource, spec: Spec) -> Any:
    factory = source.registry.model(f"{spec.scheme}:")
    assert factory is not None
    sizes = {"in_chans": source.input_size[0], "img_size": source.input_size[1:]}
    return factory(spec.name, **{**source.options, **sizes, **spec.options})


_BUILDERS = {
    "": _from_zoo,
    "timm": _from_timm,
    "hf-hub": _from_hub,
    "torchvision": _from_torchvision,
    "python": _from_python,
}


def check_name(text: str, registry: Registry) -> None:
    """Refuse a spec that names nothing, before any work is done for it.

    Raises:
        ModelError: with the nearest names.
    """
    spec = Spec.parse(text, ModelError)
    if spec.scheme == "module":
        raise ModelError(
            f"'{text}' was a module of the caller's own. Only Python can give it: Engine(..., student=module); to resume, "
            "Engine.resume(FOLDER, student=module) or Comparison.resume(FOLDER, modules={'student': module}), or 'teacher'."
        )
    if spec.scheme not in _BUILDERS and registry.model(f"{spec.scheme}:") is None:
        raise ModelError(f"'{text}': there is no scheme '{spec.scheme}:'. A network is one of {_forms(registry)}.")
    if spec.scheme == "":
        if registry.model(spec.name) is None:
            raise ModelError(_unknown_bare(registry, spec.name))
    elif spec.scheme == "timm":
        _check_timm(registry, spec.name)
    elif spec.scheme == "torchvision":
        _check_torchvision(spec.name)
    elif spec.scheme == "python":
        import_factory(spec.name, ModelError)


def _check_timm(registry: Registry, name: str) -> None:
    import timm

    if not timm.is_model(name):
        registry.model(name)  # a plugin that offers the network registers it with timm as well
    if not timm.is_model(name):
        near = did_you_mean(name, timm.list_models())
        raise ModelError(
            f"timm has no model '{name}'. {near}{_without_zoo(registry)} 'kdengine models {name[:4]}' searches for more."
        )


@lru_cache
def names_of_torchvision() -> tuple[str, ...]:
    """The networks of torchvision that label images, or the pixels of images."""
    import torchvision

    models = torchvision.models
    return (*models.list_models(module=models), *models.list_models(module=models.segmentation))


def _check_torchvision(name: str) -> None:
    names = names_of_torchvision()
    if name not in names:
        near = did_you_mean(name, names) or f"'kdengine models {name[:4]}' searches."
        raise ModelError(f"torchvision has no model '{name}'. {near}")


def _unknown_bare(registry: Registry, name: str) -> str:
    import timm
    import torchvision

    schemes = {"timm": timm.list_models(), "torchvision": torchvision.models.list_models()}
    elsewhere = [f"'{scheme}:{name}'" for scheme, names in schemes.items() if name in names]
    zoo = [name for name in registry.offered("models") if not name.endswith(":")]
    near = f"Did you mean {' or '.join(elsewhere)}?" if elsewhere else did_you_mean(name, zoo)
    near = _of_file(name) or near or f"A network is one of {_forms(registry)}."
    return f"There is no network '{name}'. {near}{_without_zoo(registry)} 'kdengine models' lists them."


def _of_file(name: str) -> str:
    """What a path is that stands in place of a network; empty if it is nothing that is known."""
    if os.path.isfile(os.path.join(name, "run.toml")):
        return (
            "It is the folder of a run: name the network of that run, and give the folder as its weights, with "
            "--teacher-weights or --student-weights."
        )
    return f"Write python:{Path(name).stem}:FACTORY." if name.endswith(".py") else ""


def _forms(registry: Registry) -> str:
    """What a spec may look like, with the schemes of plugins."""
    schemes = [f"{name}NAME" for name in registry.offered("models") if name.endswith(":")]
    return f"{FORMS}; plugins add {', '.join(schemes)}" if schemes else FORMS


def _without_zoo(registry: Registry) -> str:
    """A sentence for users who installed kdengine alone."""
    return "" if registry.offered("models") else " No zoo is installed; pip install 'kdengine[all]' brings small networks."


def count_parameters(model: nn.Module) -> int:
    """Number of values in all parameters, frozen ones included; buffers do not count."""
    return sum(parameter.numel() for parameter in model.parameters())
