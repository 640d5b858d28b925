"""The probe pass: one forward of a copy of the network that records every call, its tensors and in-place writes."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from kdengine.errors import TapError
from kdengine.seeds import undisturbed
from kdengine.taps.attention import AttentionWatch
from kdengine.taps.functional import ACTIVATION_MODULES, FunctionalActivations
from kdengine.taps.tensors import first_tensor, tensors_in
from kdengine.taps.twin import QuickBatchNorm, copy_to

__all__ = ["PROBE_BATCH", "Call", "Probe", "Watch", "probe", "twin_and_images"]

PROBE_BATCH = 2


@dataclass(eq=False)
class Call:
    """One call of a module or of a functional activation during the probe.

    Attributes:
        path: module path, or module path and function (``layer1.0.relu()``).
        kind: class name of the module, or the function's name.
        number: index of the call of this path, from 0.
        started: when the call began, in counted events.
        finished: when it ended, in the same count.
        input: its first tensor argument, on the meta device.
        output: its first output tensor, on the meta device.
        input_overwritten: whether the input was modified in place after the call began.
        output_overwritten: whether the output was modified in place after the call ended.
        activation: whether this is an activation.
        layer: whether the module itself holds a weight matrix: a convolution or a linear layer.
        weighted: whether the module itself holds parameters, as normalisations do too.
        output_version: the output's version counter when the call ended.
        parts: every output tensor, in the order of ``tensors_in``.
        parts_overwritten: for each of them, whether it was modified in place after the call ended.
    """

    path: str
    kind: str
    number: int
    started: int
    activation: bool = False
    layer: bool = False
    weighted: bool = False
    finished: int = -1
    input: Tensor | None = None
    output: Tensor | None = None
    input_overwritten: bool = False
    output_overwritten: bool = False
    output_version: int = 0
    parts: list[Tensor] = field(default_factory=list)
    parts_overwritten: list[bool] = field(default_factory=list)

    def contains(self, other: Call) -> bool:
        """Whether the other call ran inside this one."""
        return self.started < other.started and other.finished < self.finished

    def result(self, item: int | None = None) -> tuple[Tensor | None, bool]:
        """One output tensor, the first by default, and whether it is overwritten; None if there is no such tensor."""
        if item is None:
            return self.output, self.output_overwritten
        return (self.parts[item], self.parts_overwritten[item]) if item < len(self.parts) else (None, False)


@dataclass
class Probe:
    """What one probe pass recorded.

    Attributes:
        calls: all calls, in the order in which they ended.
        logits: [B, K], or [B, K, H, W] of a network that labels pixels, on the meta device; B = 2.
        device: the device that the pass ran on.
        aspect: rows / columns of the input.
        attends: whether attention between positions was computed.
    """

    calls: list[Call]
    logits: Tensor
    device: str
    aspect: float = 1.0
    attends: bool = False
    _numbered: dict[tuple[str, int], Call] = field(init=False)
    _count: dict[str, int] = field(init=False)
    _layer_starts: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self._numbered = {(call.path, call.number): call for call in self.calls}
        self._count = {}
        for call in self.calls:
            self._count[call.path] = max(self._count.get(call.path, 0), call.number + 1)
        self._layer_starts = sorted(call.started for call in self.calls if call.layer)

    @property
    def num_outputs(self) -> int:
        """K: the channels of a map [B, K, H, W], else the length of the last dimension."""
        return self.logits.shape[1 if self.logits.ndim == 4 else -1]

    def layers_within(self, call: Call) -> int:
        """Number of convolution and linear-layer calls inside this call."""
        return bisect_left(self._layer_starts, call.finished) - bisect_right(self._layer_starts, call.started)

    def times_called(self, path: str) -> int:
        """How many times one forward calls this path."""
        return self._count.get(path, 0)

    def find(self, path: str, number: int = 0) -> Call | None:
        """The call of a path with this number, or None."""
        return self._numbered.get((path, number))


def probe(model: nn.Module, input_size: Sequence[int]) -> Probe:
    """Run a copy of the model once, on the meta device if possible, else on the CPU.

    The model itself never runs, so it keeps nothing that a forward may cache.

    Args:
        model: any network whose forward takes one batch of images.
        input_size: shape of one input, (C, H, W).

    Raises:
        TapError: the forward fails on both devices, or returns no tensor.
    """
    failures = []
    for device in ("meta", "cpu"):
        try:
            with torch.inference_mode(False):  # inference tensors have no version counter
                return _probe_on(device, model, input_size)
        except TapError as error:
            raise TapError(f"{type(model).__name__} cannot be tapped: {error}.") from error
        except Exception as error:  # a model may fail on the meta device with any exception
            failures.append(f"on {device}: {type(error).__name__}: {error}")
    shape = ", ".join(map(str, input_size))
    raise TapError(
        f"{type(model).__name__} does not accept a batch of [{PROBE_BATCH}, {shape}] ({'; '.join(failures)}). "
        "Choose a network for images of this size and number of channels."
    )


def _probe_on(device: str, model: nn.Module, input_size: Sequence[int]) -> Probe:
    twin, images = twin_and_images(device, model, input_size)
    _let_inplace_dropout_run(twin)
    watch, attention = Watch(), AttentionWatch()
    with undisturbed(), torch.random.fork_rng(devices=()), torch.no_grad(), attention, QuickBatchNorm(), watch.over(twin):
        logits = first_tensor(twin(images))
    if logits is None:
        raise TapError("its forward returns no tensor")
    aspect = input_size[-2] / input_size[-1] if len(input_size) > 1 else 1.0
    return Probe(watch.finish(), _as_meta(logits), device, aspect, attention.attends)


def twin_and_images(device: str, model: nn.Module, input_size: Sequence[int]) -> tuple[nn.Module, Tensor]:
    """A copy of the network in eval mode, and a batch [2, C, H, W] of zeros for it, both on the device."""
    twin = copy_to(device, model).eval()
    return twin, torch.zeros(PROBE_BATCH, *input_size, device=device, dtype=_dtype(twin))


def _let_inplace_dropout_run(model: nn.Module) -> None:
    """In-place dropout does nothing in eval mode, but it overwrites its input when the student trains."""
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.inplace:
            module.train()


def _dtype(model: nn.Module) -> torch.dtype:
    floating = (parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())
    return next(floating, torch.float32)


def _as_meta(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, device="meta")


def _is_layer(module: nn.Module) -> bool:
    own = module.parameters(recurse=False)
    return isinstance(module, (nn.Linear, nn.Conv2d)) or any(parameter.ndim > 1 for parameter in own)


class Watch:
    """Hooks on every module of the probe's copy; they are discarded with the copy."""

    def __init__(self) -> None:
        self.open: list[Call] = []
        self.done: list[Call] = []
        self.clock = 0
        self.numbers: dict[str, int] = {}
        self.versions: list[tuple[Call, str, Tensor, int]] = []
        self.parts: list[tuple[Call, list[tuple[Tensor, int]]]] = []

    def over(self, model: nn.Module) -> FunctionalActivations:
        """Install the hooks; the returned context reports functional activations."""
        for path, module in model.named_modules():
            module.register_forward_pre_hook(self._before(path), with_kwargs=True)
            module.register_forward_hook(self._after(path))
        return FunctionalActivations(self._before_function, self._after_function)

    def _before(self, path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            kind = type(module).__name__
            call = self._begin(path, kind, first_tensor((args, kwargs)), kind in ACTIVATION_MODULES)
            call.layer = _is_layer(module)
            call.weighted = call.layer or next(module.parameters(recurse=False), None) is not None

        return hook

    def _after(self, path: str) -> Callable[..., None]:
        return lambda module, args, output: self._end(path, output)

    def _before_function(self, name: str, tensor: Tensor) -> None:
        inside = self.open[-1] if self.open else None  # no call is open in a method of the network other than its forward
        if inside is None or not inside.activation:  # an activation module calls its own function: count it once
            self._begin(f"{inside.path if inside else ''}.{name}".lstrip("."), name, tensor, activation=True)

    def _after_function(self, name: str, tensor: Tensor) -> None:
        if self.open and self.open[-1].kind == name:
            self._end(self.open[-1].path, tensor)

    def _begin(self, path: str, kind: str, tensor: Tensor | None, activation: bool) -> Call:
        number = self.numbers.get(path, 0)
        self.numbers[path] = number + 1
        call = Call(path, kind, number, self._tick(), activation)
        self._keep(call, "input", tensor)
        self.open.append(call)
        return call

    def _end(self, path: str, output: Any) -> None:
        tensor = first_tensor(output)
        call = self.open.pop()
        while call.path != path:  # the inner call raised, and the network caught the exception
            call = self.open.pop()
        call.finished = self._tick()
        self._keep(call, "output", tensor)
        call.output_version = 0 if tensor is None else tensor._version
        self.parts.append((call, [(part, part._version) for part in tensors_in(output)]))
        self.done.append(call)

    def _tick(self) -> int:
        self.clock += 1
        return self.clock

    def _keep(self, call: Call, side: str, tensor: Tensor | None) -> None:
        setattr(call, side, tensor)
        if tensor is not None:
            self.versions.append((call, side, tensor, tensor._version))

    def finish(self) -> list[Call]:
        """Record in-place writes, and replace every tensor by one on the meta device, preserving identity."""
        metas: dict[int, Tensor] = {}
        for call, side, tensor, version in self.versions:  # all tensors are alive here, so their ids are unique
            setattr(call, f"{side}_overwritten", tensor._version != version)
            setattr(call, side, _once(metas, tensor))
        for call, parts in self.parts:
            call.parts_overwritten = [part._version != version for part, version in parts]
            call.parts = [_once(metas, part) for part, _ in parts]
        self.versions.clear()
        self.parts.clear()
        return self.done


def _once(metas: dict[int, Tensor], tensor: Tensor) -> Tensor:
    if id(tensor) not in metas:
        metas[id(tensor)] = _as_meta(tensor)
    return metas[id(tensor)]
