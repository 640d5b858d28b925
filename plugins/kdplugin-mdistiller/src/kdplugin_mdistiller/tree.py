"""Imports a file of an mdistiller tree from the user's disk, and finds the one class in it that distils."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from kdengine import Distiller as OurDistiller
from kdengine import PluginError
from kdplugin_mdistiller.reading import Reads, reads_of
from kdplugin_mdistiller.stand_ins import base, common

__all__ = ["TreeFile", "open_file"]

STAND_INS = {"_base": base, "_common": common}
BATCH = ("image", "target", "index", "epoch")
"""What the adapter passes to ``forward_train``."""
OWNED = {
    "train": "the engine's teacher always evaluates, so that this method would compute other numbers than in its tree",
    "forward": "the engine calls forward_train itself",
    "forward_test": "the student is evaluated and shipped as it is",
}
"""What a class must leave to its base class, and why."""


@dataclass(frozen=True)
class TreeFile:
    """A class that distils, and what its file says of it.

    Attributes:
        path: the file.
        kind: the class.
        arguments: what its constructor receives behind student and teacher: ``cfg`` or ``num_data``.
        batch: what its ``forward_train`` receives.
        asks_index: whether that cannot do without the positions of the images in the training set.
        own_parameters: whether it says itself which parameters are trained.
        reads: what the file, and its neighbours that it imports, read.
    """

    path: Path
    kind: type[nn.Module]
    arguments: tuple[str, ...]
    batch: tuple[str, ...]
    asks_index: bool
    own_parameters: bool
    reads: Reads

    @property
    def title(self) -> str:
        """The class and its file, for errors."""
        return f"{self.kind.__name__} of '{self.path}'"


def open_file(text: str) -> TreeFile:
    """The class that ``PATH/FILE.py`` or ``PATH/FILE.py:CLASS`` names.

    Raises:
        PluginError: there is no such file or class, or the adapter cannot serve it; says what to do.
    """
    match = re.fullmatch(r"(.+\.py)(?::(\w+))?", text)
    if match is None:
        raise PluginError(
            f"mdistiller:{text} names no Python file. Write mdistiller:PATH/FILE.py or mdistiller:PATH/FILE.py:CLASS."
        )
    path, wanted = Path(match[1]).expanduser(), match[2]
    if not path.is_file():
        raise PluginError(f"There is no file '{path}'. Write mdistiller:PATH/FILE.py with a file of mdistiller/distillers.")
    path = path.resolve()
    module = _imported(path)
    kind = _chosen(module, path, wanted)
    _check_overrides(kind, path)
    arguments, name = _constructor(kind, path)
    reads = reads_of(_sources(module), name)
    batch, asks_index = _batch(kind, path)
    return TreeFile(path, kind, arguments, batch, asks_index, "get_learnable_parameters" in _defined(kind), reads)


def _imported(path: Path) -> ModuleType:
    """The file as a module of a package whose folder is the file's, without running the package's own ``__init__``.

    Its relative imports find the files beside it, and stand-ins for ``_base`` and ``_common`` if they are not there.
    """
    root = f"kdengine_mdistiller_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    _forget(root)
    package = f"{root}.{re.sub(r'[^0-9a-zA-Z]', '_', path.parent.name) or 'distillers'}"
    for name, folder in ((root, path.parent.parent), (package, path.parent)):
        sys.modules[name] = ModuleType(name)
        sys.modules[name].__path__ = [str(folder)]
    for name, stand_in in STAND_INS.items():
        if not (path.parent / f"{name}.py").is_file():
            sys.modules[f"{package}.{name}"] = stand_in
    name = f"{package}.{re.sub(r'[^0-9a-zA-Z_]', '_', path.stem)}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        _forget(root)
        if isinstance(error, ModuleNotFoundError):
            hint = "Put the tree on PYTHONPATH." if (error.name or "").startswith("mdistiller") else "Install it."
            raise PluginError(f"'{path}' imports '{error.name}', which is not there. {hint}") from error
        raise
    return module


def _forget(root: str) -> None:
    for name in [name for name in sys.modules if name == root or name.startswith(f"{root}.")]:
        del sys.modules[name]


def _sources(module: ModuleType) -> Iterator[str]:
    """The texts of the file and of the neighbours that it imported; the helpers of ``_common`` are known by name."""
    package = module.__name__.rpartition(".")[0]
    for name, other in list(sys.modules.items()):
        own = name.startswith(f"{package}.") and name.rpartition(".")[2] not in STAND_INS
        if own and isinstance(getattr(other, "__file__", None), str):
            yield Path(str(other.__file__)).read_text(encoding="utf-8")


def _chosen(module: ModuleType, path: Path, wanted: str | None) -> type[nn.Module]:
    """The class that distils: the one of this name, or the only one."""
    own = [item for item in vars(module).values() if isinstance(item, type) and item.__module__ == module.__name__]
    found = {item.__name__: item for item in own if issubclass(item, nn.Module) and _base_of(item) is not None}
    if wanted is None and len(found) == 1:
        return next(iter(found.values()))
    if wanted in found:
        return found[wanted]
    if any(issubclass(item, OurDistiller) for item in own):
        raise PluginError(f"'{path}' has a distiller of kdengine, which needs no adapter. Write --plugin {path}.")
    if not found:
        raise PluginError(f"'{path}' has no subclass of Distiller (from ._base import Distiller). Name a file that has one.")
    choices = ", ".join(f"mdistiller:{path}:{name}" for name in found)
    what = f"no Distiller '{wanted}'" if wanted else f"{len(found)} Distillers"
    raise PluginError(f"'{path}' has {what}. Choose one: {choices}.")


def _base_of(kind: type) -> type | None:
    """The class ``Distiller`` that a class derives from; None if there is none, or it is kdengine's."""
    bases = [item for item in kind.__mro__[1:] if item.__name__ == "Distiller" and item is not OurDistiller]
    return bases[0] if bases else None


def _defined(kind: type) -> set[str]:
    """The names that a class and its parents define, up to the base class ``Distiller``."""
    above = kind.__mro__[: kind.__mro__.index(_base_of(kind) or nn.Module)]
    return {name for item in above for name in vars(item)}


def _check_overrides(kind: type, path: Path) -> None:
    defined = _defined(kind)
    for name, why in OWNED.items():
        if name in defined:
            raise PluginError(
                f"{kind.__name__} of '{path}' overrides {name}(), which the adapter cannot serve: {why}. Use a plugin for this "
                f"method if there is one ('kdengine plugins'), or a copy of the file without {name}()."
            )
    if "forward_train" not in defined:
        raise PluginError(f"{kind.__name__} of '{path}' has no forward_train(self, image, target, **kwargs). Write one.")


def _constructor(kind: Any, path: Path) -> tuple[tuple[str, ...], str]:
    """What the constructor receives behind student and teacher, and its own name for ``cfg``."""
    names = [item.name for item in _parameters(kind.__init__) if item.default is item.empty][2:]
    unknown = [name for name in names[1:] if name != "num_data"]
    if unknown:
        raise PluginError(
            f"{kind.__name__} of '{path}' is made with {', '.join(unknown)}, but the adapter makes it as the tree's trainer "
            "does: (student, teacher, cfg) or (student, teacher, cfg, num_data). Give others a default in a copy of the file."
        )
    arguments = tuple("num_data" if name == "num_data" else "cfg" for name in names)
    return arguments, next((name for name in names if name != "num_data"), "cfg")


def _batch(kind: Any, path: Path) -> tuple[tuple[str, ...], bool]:
    """What of the batch ``forward_train`` receives, and whether it asks for ``index`` by name."""
    parameters = _parameters(kind.forward_train)
    unknown = [item.name for item in parameters if item.default is item.empty and item.name not in BATCH]
    if unknown:
        raise PluginError(
            f"{kind.__name__} of '{path}' trains on {', '.join(unknown)}. The adapter has {', '.join(BATCH)} of each step, and "
            "neither a second view of the images nor negatives drawn by class, so this method needs a plugin of its own."
        )
    takes_all = any(item.kind is item.VAR_KEYWORD for item in inspect.signature(kind.forward_train).parameters.values())
    named = tuple(item.name for item in parameters if item.name in BATCH)
    return BATCH if takes_all else named, "index" in named


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """The named parameters of a method, without ``self``."""
    every = list(inspect.signature(function).parameters.values())[1:]
    return [item for item in every if item.kind not in (item.VAR_POSITIONAL, item.VAR_KEYWORD)]
