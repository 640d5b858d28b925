"""A method of kdengine that runs a class of an mdistiller tree: its networks are facades, its modules connectors."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, cast

import torch
from pydantic import BeforeValidator, Field, create_model
from torch import Tensor, nn

from kdengine import Distiller, KDError, Pair, PluginError, Step, TrainingError
from kdplugin_mdistiller.config import Config, as_tables, check_known, defaults_of, flat, nested, overlay
from kdplugin_mdistiller.facade import Facade, Shown
from kdplugin_mdistiller.tree import TreeFile, open_file

__all__ = ["Adapted", "load"]

HELP = "Values of the file's `cfg`, each as `cfg.KEY=VALUE`, over those of its tree's `engine/cfg.py`."


class Adapted(Distiller):
    """Base of the methods that :func:`load` makes; a subclass names the file and the class that it runs."""

    name = "mdistiller"
    needs = ("hard_labels",)
    file: ClassVar[TreeFile]
    defaults: ClassVar[Mapping[str, Any]] = {}

    class Options(Distiller.Options):
        """Options of an adapted method."""

        cfg: Annotated[dict[str, Any], BeforeValidator(as_tables)] = Field(default_factory=dict)
        """Values of the file's `cfg`."""
        ce: bool = True
        """Let the file's own `loss_ce` stand in for the task loss; if false, `loss_ce` is dropped and the task loss counts."""

    options: Options

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        if not self.file.reads.whole_cfg:
            check_known(self.options.cfg, self.file.reads.cfg, self.name)
        self.options = self.options.model_copy(update={"cfg": overlay(self.defaults, self.options.cfg)})

    @property
    def task_weight(self) -> float:
        """0 where the file's own cross-entropy stands in for the task loss."""
        return 0.0 if self.options.ce else 1.0

    def taps_in(self, phase: str) -> Sequence[str] | None:
        """The taps in the joint phase; other methods' earlier phases are none of the tree's."""
        return super().taps_in(phase) if phase == "joint" else None

    def build(self, pair: Pair) -> None:
        """Make the file's class with facades for its networks; its modules are the connectors."""
        shapes = Shown.both(pair.pairs, (pair.student.logits, pair.teacher.logits))
        self.student, self.teacher = (Facade(*of, shown) for of, shown in zip(self._sides, shapes, strict=True))
        given = {"cfg": Config(self.options.cfg, self.name), "num_data": pair.num_samples}
        try:
            self.inner = self.file.kind(self.student, self.teacher, *(given[name] for name in self.file.arguments))
        except KDError:
            raise
        except Exception as error:  # code of the user's disk
            raise PluginError(self._failed("its constructor", error)) from error
        self.loose = nn.ParameterList(_set_trained(self.inner, self.file.own_parameters))
        if not self.file.reads.moves:  # else it may ask for a GPU before there is one
            self._try_out(shapes)

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The losses of the file's ``forward_train``, under its own names."""
        shown = Shown.both(step.pairs, (step.student.logits, step.teacher.logits), step.x)
        given = {"image": step.x, "target": step.y, "epoch": step.epoch + 1}
        if step.positions is not None or self.file.asks_index:
            given["index"] = step.index
        return self._losses(shown, given)

    @property
    def _sides(self) -> tuple[tuple[str, str], tuple[str, str]]:
        return ("student", self.name), ("teacher", self.name)

    def _try_out(self, shapes: Sequence[Shown]) -> None:
        """Run a copy once on random tensors of the right shapes, so that what does not fit is refused before training."""
        image = torch.rand(2, 3, 8, 8)
        shown = [part.drawn(image) for part in shapes]
        numbers = torch.arange(2)
        batch = {"image": image, "target": numbers % shapes[0].logits.shape[1], "index": numbers, "epoch": 1}
        try:
            twin = copy.deepcopy(self)
        except Exception as error:  # the class may hold anything
            raise PluginError(self._failed("being copied", error)) from error
        twin.train()._losses(shown, batch)

    def _losses(self, shown: Sequence[Shown], batch: Mapping[str, Any]) -> dict[str, Tensor]:
        self.student.shown, self.teacher.shown = shown
        try:
            forward_train = cast(Callable[..., Any], self.inner.forward_train)
            returned = forward_train(**{name: value for name, value in batch.items() if name in self.file.batch})
            return self._checked(returned)
        except (KDError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # code of the user's disk
            raise TrainingError(self._failed("forward_train", error)) from error
        finally:
            self.student.shown = self.teacher.shown = None

    def _checked(self, returned: Any) -> dict[str, Tensor]:
        """The losses as scalars, each the mean of what the file returns, as the tree's trainer takes it."""
        losses = returned[1] if isinstance(returned, tuple | list) and len(returned) == 2 else None
        if not isinstance(losses, Mapping) or not all(isinstance(value, Tensor) for value in losses.values()):
            raise TrainingError(f"{self.name}: forward_train must return (logits, {{name: tensor}}), got {returned!r:.200}.")
        if self.options.ce and "loss_ce" not in losses:
            raise TrainingError(
                f"{self.name}: forward_train returns {', '.join(losses) or 'nothing'}, and no loss_ce to stand in for the task "
                f"loss. With -o {self.name}.ce=false all of them count beside the task loss; leave it out of them then."
            )
        return {name: value.mean() for name, value in losses.items() if self.options.ce or name != "loss_ce"}

    def _failed(self, what: str, error: Exception) -> str:
        sides = "; ".join(f"the {part.side} shows {part.shapes.describe()}" for part in (self.student, self.teacher))
        reason = " ".join(str(error).split()).rstrip(".")
        return (
            f"{self.file.title} failed in {what}: {type(error).__name__}: {reason}. Of each image, "
            f"{sides}. If the method needs other maps or sizes, choose them with -o {self.name}.taps=..., or its values with "
            f"-o {self.name}.cfg.KEY=VALUE."
        )


def _set_trained(inner: nn.Module, own: bool) -> list[nn.Parameter]:
    """Leave gradients to the parameters that the class trains: all, or those that it lists itself.

    Returns:
        Parameters in plain lists that it trains, of which torch does not know.
    """
    registered = list(inner.parameters())
    loose = [value for value in _loose(inner) if all(value is not other for other in registered)]
    listed = [*registered, *loose]
    if own:
        listed = list(inner.get_learnable_parameters())  # type: ignore[operator]
    trained = {id(value) for value in listed}
    for value in (*registered, *loose):
        value.requires_grad_(id(value) in trained)
    return [value for value in loose if id(value) in trained]


def _loose(inner: nn.Module) -> list[nn.Parameter]:
    found = []
    for module in inner.modules():
        for value in vars(module).values():
            items = value if isinstance(value, list | tuple) else value.values() if isinstance(value, dict) else ()
            found += [item for item in items if isinstance(item, nn.Parameter)]
    return found


def load(text: str) -> type[Adapted]:
    """The method that runs the class in ``PATH/FILE.py`` or ``PATH/FILE.py:CLASS``; its name is ``mdistiller-CLASS``.

    Raises:
        PluginError: there is no such file or class, or the adapter cannot serve it; says what to do.
    """
    file = open_file(text)
    defaults = _read_defaults(file)
    cfg: Any = (Annotated[dict[str, Any], BeforeValidator(as_tables)], Field(default=defaults, description=HELP))
    options = create_model("Options", __base__=Adapted.Options, __module__=__name__, cfg=cfg)
    maps = {"feats", "preact_feats"} & file.reads.features
    made = type(
        file.kind.__name__,
        (Adapted,),
        {
            "__doc__": f"{_summary(file.kind)}\n\nSource: class {file.title}, run by the mdistiller adapter.",
            "__module__": __name__,
            "name": f"mdistiller-{file.kind.__name__.lower()}",
            "category": "multi-connection" if maps else "shared-representation" if file.reads.features else "response",
            "needs": (*Adapted.needs, *(("index",) if file.asks_index else ())),
            "taps": file.reads.taps,
            "Options": options,
            "file": file,
            "defaults": defaults,
        },
    )
    return cast("type[Adapted]", made)


def _summary(kind: type) -> str:
    lines = (kind.__doc__ or "").strip().splitlines()
    return lines[0].strip() if lines else f"{kind.__name__} of an mdistiller tree."


def _read_defaults(file: TreeFile) -> dict[str, Any]:
    """What of the tree's values the file reads, so that the settings of a run have these and no others."""
    every = defaults_of(file.path)
    if file.reads.whole_cfg:
        return every
    read = tuple(f"{name}." for name in file.reads.cfg)
    values: dict[str, Any] = {}
    for key, value in flat(every):
        if f"{key}.".startswith(read):
            values = overlay(values, nested({key: value}))
    return values
