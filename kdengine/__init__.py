"""kdengine: knowledge distillation of any PyTorch teacher into any student, every method a plugin.

The names below are the whole public interface. They are imported when first used, so that ``kdengine --help`` does
not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdengine.comparison import Comparison
    from kdengine.connectors import Adapter
    from kdengine.data.dataset import Data, Split
    from kdengine.distiller import Distiller
    from kdengine.engine import Engine
    from kdengine.errors import (
        DataError,
        KDError,
        ModelError,
        PluginError,
        SettingsError,
        TapError,
        TrainingError,
    )
    from kdengine.features import as_vectors, pooled_alike, resized, unit
    from kdengine.plugging.hookspecs import hookimpl
    from kdengine.plugging.registry import Registry
    from kdengine.result import Result
    from kdengine.settings import Names
    from kdengine.step import Pair, Stage, Step, TapPair
    from kdengine.taps import Anatomy, Recorder, Trace

__version__ = "0.1.0"

_HOME = {
    "Adapter": "connectors",
    "Anatomy": "taps",
    "Comparison": "comparison",
    "Data": "data.dataset",
    "DataError": "errors",
    "Distiller": "distiller",
    "Engine": "engine",
    "KDError": "errors",
    "ModelError": "errors",
    "Names": "settings",
    "Pair": "step",
    "PluginError": "errors",
    "Recorder": "taps",
    "Registry": "plugging.registry",
    "Result": "result",
    "SettingsError": "errors",
    "Split": "data.dataset",
    "Stage": "step",
    "Step": "step",
    "StorageError": "errors",
    "TapError": "errors",
    "TapPair": "step",
    "Trace": "taps",
    "TrainingError": "errors",
    "as_vectors": "features",
    "hookimpl": "plugging.hookspecs",
    "pooled_alike": "features",
    "resized": "features",
    "unit": "features",
}

__all__ = [
    "Adapter",
    "Anatomy",
    "Comparison",
    "Data",
    "DataError",
    "Distiller",
    "Engine",
    "KDError",
    "ModelError",
    "Names",
    "Pair",
    "PluginError",
    "Recorder",
    "Registry",
    "Result",
    "SettingsError",
    "Split",
    "Stage",
    "Step",
    "StorageError",
    "TapError",
    "TapPair",
    "Trace",
    "TrainingError",
    "as_vectors",
    "hookimpl",
    "pooled_alike",
    "resized",
    "unit",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'kdengine' has no attribute '{name}'")
    return getattr(import_module(f"kdengine.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOME]
