"""A network's structure as one probe pass reveals it, and the resolution of tap names in it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, nn

from kdengine.errors import TapError, did_you_mean
from kdengine.taps.encoder import find_maps
from kdengine.taps.functional import is_functional
from kdengine.taps.grammar import Tap, parse
from kdengine.taps.map_outputs import activation_behind, find_classifier
from kdengine.taps.maps import MapOutput, layout_of
from kdengine.taps.paths import expand, is_pattern
from kdengine.taps.pooled_map import find_pooled_map
from kdengine.taps.probe import Call, Probe, probe
from kdengine.taps.tensors import AS_IS, Layout

__all__ = ["Anatomy", "TapPoint"]


@dataclass(frozen=True)
class TapPoint:
    """A resolved tap: one side of one call of one module, and the layout of its tensor.

    Attributes:
        path: module path, or module path and function (``layer1.0.relu()``); empty for the network itself.
        side: ``"in"`` or ``"out"``.
        call: index of the call of this path, from 0.
        overwritten: whether the network later modifies the tensor in place, so that it must be cloned.
        layout: converts the captured tensor into the one that a method reads.
        item: index of the tensor in an output that holds several; None for the first.
    """

    path: str
    side: str
    call: int
    overwritten: bool
    layout: Layout = AS_IS
    item: int | None = None

    def __str__(self) -> str:
        text = f"{self.path or 'the network'}{':in' if self.side == 'in' else ''}{f'#{self.call}' if self.call else ''}"
        return text if self.item is None else f"{text}[{self.item}]"


class Anatomy:
    """A network's modules in call order, their shapes, and its stages, embedding and classifier.

    Built by :meth:`of`; keeps no reference to the network and allocates no tensor memory.
    """

    def __init__(self, name: str, model: nn.Module, seen: Probe) -> None:
        self.name = name
        self._is_own = name.startswith("module:") or name == type(model).__name__
        self.probe = seen
        self.parameters = sum(parameter.numel() for parameter in model.parameters())
        self.modules = tuple(path for path, _ in model.named_modules() if path)
        self._aliases = _aliases(model)
        self._classifier = find_classifier(model, seen)
        self._stem, self._stages = find_maps(model, seen, self._classifier)

    @classmethod
    def of(cls, model: nn.Module, input_size: Sequence[int], name: str | None = None) -> Anatomy:
        """Probe a copy of the network; the network itself is not touched.

        Args:
            model: any network, bare or wrapped by ``torch.compile`` or DDP.
            input_size: shape of one input, (C, H, W).
            name: the network's name in errors; its class name by default.

        Raises:
            TapError: the network does not accept an input of this shape.
        """
        bare = unwrap(model)
        return cls(name or type(bare).__name__, bare, probe(bare, input_size))

    @property
    def calls(self) -> list[Call]:
        """Every call of the probe, in the order in which the calls ended."""
        return self.probe.calls

    @property
    def num_stages(self) -> int:
        """Number of stages."""
        return len(self._stages)

    @property
    def classifier(self) -> str | None:
        """Path of the layer that computes the logits; None if there is none."""
        return self._classifier.path if self._classifier else None

    @property
    def classifiers(self) -> tuple[str, ...]:
        """Paths of the modules that read the same embedding as the classifier and make as many outputs, itself included."""
        known = self._classifier
        if known is None or known.output is None:
            return ()
        alike = [call for call in self.calls if call.kind == known.kind and call.input is known.input]
        return tuple(call.path for call in alike if call.output is not None and call.output.shape == known.output.shape)

    @property
    def labels_pixels(self) -> bool:
        """Whether the logits are those of pixels, [B, K, H, W]; the network then has no embedding, a vector of each image."""
        return self._classifier is not None and self.probe.logits.ndim == 4

    @cached_property
    def canonical(self) -> dict[str, TapPoint]:
        """The names that work on any network, resolved in this one."""
        points = {} if self._stem is None else {"stem": _point(self._stem)}
        for number, stage in enumerate(self._stages, 1):
            points[f"stage{number}"] = _point(stage)
            points[f"stage{number}.pre"] = self._before_activation(stage)
        embedding = {} if self.labels_pixels else {**self._pooled_map(), "embedding": self._embedding()}
        return {**points, **embedding, "logits": TapPoint("", "out", 0, overwritten=False)}

    def resolve(self, text: str) -> dict[str, TapPoint]:
        """Resolve one side of a tap: ``{name: point}``, with several entries for a glob or ``stages``.

        Raises:
            TapError: no module has this name, it never runs, or it runs several times and the tap does not say which call.
        """
        tap = parse(text)
        if tap.canonical is None:
            return {str(named): self._module_point(named) for named in self._expand(tap)}
        if tap.path in ("stages", "stages.pre") and self._stages:
            kind = tap.path.removeprefix("stages")
            return {f"stage{number}{kind}": self.canonical[f"stage{number}{kind}"] for number in range(1, self.num_stages + 1)}
        name = self._from_front(tap)
        if name not in self.canonical:
            allowed = ", ".join(self.canonical)
            raise TapError(f"{self.name} has no '{text}': it has {allowed}. {self._listing}")
        return {name: self.canonical[name]}

    def resolve_all(self, texts: Iterable[str]) -> dict[str, TapPoint]:
        """:meth:`resolve` for several taps."""
        return {name: point for text in texts for name, point in self.resolve(text).items()}

    def tensor(self, point: TapPoint) -> Tensor:
        """A meta tensor of the shape that a method reads at this point, for a batch of 2."""
        call = self.probe.find(point.path, point.call)
        raw = self.probe.logits if point.path == "" else None if call is None else _passed(call, point)
        if raw is None:
            raise TapError(f"{self.name}: {point} passes no tensor. {self._listing}")
        return point.layout.apply(raw)

    def when(self, point: TapPoint) -> float:
        """When the tensor at a point becomes available, on the probe's clock; the network's output comes last."""
        call = self.probe.find(point.path, point.call)
        if call is None or not point.path:
            return math.inf
        return call.started if point.side == "in" else call.finished

    def rectified(self, point: TapPoint) -> bool:
        """Whether the tensor at a point is the output of a ReLU and hence never negative."""
        call = self.probe.find(point.path, point.call)
        if call is None or point.side == "in" or point.item is not None:
            return False
        activation = activation_behind(self.probe, call)
        return activation is not None and activation.kind.lower().rstrip("()") in ("relu", "relu6")

    @property
    def _listing(self) -> str:
        if self._is_own:  # the command line cannot see it
            return "In Python, Anatomy.of(module, (C, H, W)).canonical has all names, and .modules all paths."
        return f"'kdengine inspect {self.name}' lists all taps."

    def _from_front(self, tap: Tap) -> str:
        """``stage-1`` as ``stage4``; other names unchanged."""
        parts = tap.canonical
        if parts is None or not (parts["number"] or "").startswith("-"):
            return tap.path
        number = len(self._stages) + 1 + int(parts["number"])
        return f"stage{number}{parts['pre'] or ''}" if number > 0 else tap.path

    def _before_activation(self, stage: MapOutput) -> TapPoint:
        """The input of the activation that ends the stage; the stage itself if it does not end in one."""
        activation = None if stage.item is not None else activation_behind(self.probe, stage.call)
        if activation is None:
            return _point(stage)
        return TapPoint(activation.path, "in", activation.number, activation.input_overwritten, stage.layout)

    def _embedding(self) -> TapPoint:
        """The classifier's pooled input; for a network without a classifier, its pooled output."""
        call = self._classifier
        if call is not None and call.input is not None and call.output is not None:
            convolution = call.output.ndim == 4 and call.output.shape[1] == self.probe.num_outputs
            layout = Layout("vector", channels_last=not convolution)
            return TapPoint(call.path, "in", call.number, call.input_overwritten, layout)
        layout = _layout_of_output(self.probe)
        return TapPoint("", "out", 0, overwritten=False, layout=layout)

    def _pooled_map(self) -> dict[str, TapPoint]:
        """``embedding.map``, if there are maps; a network without a classifier pools its last one."""
        call, stages = self._classifier, self._stages
        width = 0 if call is None else self.tensor(self._embedding()).shape[1]
        found = find_pooled_map(stages, call, width, self.probe) if call is not None else stages[-1] if stages else None
        return {} if found is None else {"embedding.map": _point(found)}

    def _expand(self, tap: Tap) -> list[Tap]:
        """The taps that a path with globs and negative indices matches."""
        known = [*self._aliases, *(call.path for call in self.calls if is_functional(call.path))]
        paths = expand(tap.path, known)
        if is_pattern(tap.path):  # a glob skips modules that never run, and further names of the same module
            called = [path for path in paths if self.probe.times_called(path)]
            paths = called or paths[:1]
        if not paths:
            near = did_you_mean(tap.path, [*known, *self.canonical])
            raise TapError(f"{self.name} has no module '{tap.path}'. {near} {self._listing}".replace("  ", " "))
        return [Tap(path, tap.side, tap.call) for path in paths]

    def _module_point(self, tap: Tap) -> TapPoint:
        path = self._aliases.get(tap.path, tap.path)
        calls = self.probe.times_called(path)
        if calls == 0:
            raise TapError(f"{self.name}: '{tap.path}' never runs in a forward, so it cannot be tapped. {self._listing}")
        if tap.call is None and calls > 1:
            choices = ", ".join(f"'{Tap(tap.path, tap.side, number)}'" for number in range(min(calls, 4)))
            raise TapError(f"{self.name}: '{tap}' is ambiguous: it runs {calls} times per forward. Choose one: {choices}.")
        call = self.probe.find(path, tap.call or 0)
        if call is None:
            raise TapError(f"{self.name}: '{tap}' asks for call {tap.call}, but '{tap.path}' runs {calls} times (from 0).")
        side = tap.side or "out"
        if getattr(call, _SIDES[side]) is None:
            raise TapError(f"{self.name}: '{tap}' passes no tensor, so it cannot be tapped. {self._listing}")
        return TapPoint(path, side, call.number, getattr(call, f"{_SIDES[side]}_overwritten"))


_SIDES = {"in": "input", "out": "output"}


def _point(map_output: MapOutput) -> TapPoint:
    call, layout, item = map_output
    _, overwritten = call.result(item)
    return TapPoint(call.path, "out", call.number, overwritten, layout, item)


def _passed(call: Call, point: TapPoint) -> Tensor | None:
    return call.input if point.side == "in" else call.result(point.item)[0]


def _layout_of_output(probe: Probe) -> Layout:
    """The layout that pools a headless network's output: tokens and [B, H, W, C] have their channels last."""
    whole = probe.find("")
    seen = None if whole is None else layout_of(whole, probe)
    return Layout("vector", channels_last=probe.logits.ndim == 3 or (seen is not None and seen.kind == "nhwc"))


def _aliases(model: nn.Module) -> dict[str, str]:
    """Every module path -> the first path of the same module; a shared module has several paths."""
    first = {id(module): path for path, module in model.named_modules()}
    with_duplicates = model.named_modules(remove_duplicate=False)
    return {path: first[id(module)] for path, module in with_duplicates if path}


def unwrap(model: nn.Module) -> nn.Module:
    """The bare network inside ``torch.compile``, DDP and Fabric wrappers."""
    inner = dict(model.named_children())
    while inner and inner.keys() <= _WRAPPED:  # Fabric's wrapper holds both the DDP module and the network itself
        model = list(inner.values())[-1]
        inner = dict(model.named_children())
    return model


_WRAPPED = {"module", "_orig_mod", "_forward_module", "_original_module"}
