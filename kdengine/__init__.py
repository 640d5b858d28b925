"""kdengine: knowledge distillation of any PyTorch teacher into any student, every method a plugin.

The names below are the whole public interface. They are imported when first used, so that ``kdengine --help`` does
not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from kdengine._version import API as API
from kdengine._version import __version__ as __version__

if TYPE_CHECKING:
    from kdengine.comparison import Comparison
    from kdengine.config.settings import Names, TrainSettings
    from kdengine.data.dataset import Data, Split
    from kdengine.engine import Engine
    from kdengine.errors import (
        DataError,
        KDError,
        LaunchError,
        ModelError,
        PluginError,
        SettingsError,
        StorageError,
        TapError,
        TrainingError,
    )
    from kdengine.launchers.launcher import Launcher
    from kdengine.launchers.unit import Demand, Outcome, Resources, Unit
    from kdengine.launchers.worker import Worker
    from kdengine.methods.connectors import Adapter, projector
    from kdengine.methods.curriculum import Curriculum
    from kdengine.methods.distiller import Distiller
    from kdengine.methods.features import (
        flat_features,
        gram,
        l2_normalize,
        match_spatial,
        pool_to_vectors,
        resize_maps,
        vector_width,
    )
    from kdengine.methods.head import Head, ModuleView
    from kdengine.methods.pair import Pair
    from kdengine.methods.processes import Processes
    from kdengine.methods.schedule import warmup
    from kdengine.methods.step import Phase, Step, TapPair
    from kdengine.methods.transform import StepTransform
    from kdengine.plugins.discovery import Registrar
    from kdengine.plugins.hookspecs import hookimpl
    from kdengine.plugins.registry import Registry
    from kdengine.plugins.run_log import RunInfo, RunLog
    from kdengine.plugins.run_numbers import epoch_numbers, run_choices
    from kdengine.plugins.run_view import ComparisonView, LaneView, ResultView, RunView
    from kdengine.plugins.tracking import Tracking
    from kdengine.runs.result import Result
    from kdengine.shipping.push import push
    from kdengine.storage.scores import Measure, Scoring
    from kdengine.taps import Anatomy, Recorder, Trace
    from kdengine.tasks.task import DataInfo, Task


_HOME = {
    "Adapter": "methods.connectors",
    "Anatomy": "taps",
    "Comparison": "comparison",
    "ComparisonView": "plugins.run_view",
    "Curriculum": "methods.curriculum",
    "Data": "data.dataset",
    "DataError": "errors",
    "DataInfo": "tasks.task",
    "Demand": "launchers.unit",
    "Distiller": "methods.distiller",
    "Engine": "engine",
    "Head": "methods.head",
    "KDError": "errors",
    "LaneView": "plugins.run_view",
    "LaunchError": "errors",
    "Launcher": "launchers.launcher",
    "Measure": "storage.scores",
    "ModelError": "errors",
    "ModuleView": "methods.head",
    "Names": "config.settings",
    "Outcome": "launchers.unit",
    "Pair": "methods.pair",
    "Phase": "methods.step",
    "PluginError": "errors",
    "Processes": "methods.processes",
    "Recorder": "taps",
    "Registrar": "plugins.discovery",
    "Registry": "plugins.registry",
    "Resources": "launchers.unit",
    "Result": "runs.result",
    "ResultView": "plugins.run_view",
    "RunInfo": "plugins.run_log",
    "RunLog": "plugins.run_log",
    "RunView": "plugins.run_view",
    "Scoring": "storage.scores",
    "SettingsError": "errors",
    "Split": "data.dataset",
    "Step": "methods.step",
    "StepTransform": "methods.transform",
    "StorageError": "errors",
    "TapError": "errors",
    "TapPair": "methods.step",
    "Task": "tasks.task",
    "Trace": "taps",
    "Tracking": "plugins.tracking",
    "TrainSettings": "config.settings",
    "TrainingError": "errors",
    "Unit": "launchers.unit",
    "Worker": "launchers.worker",
    "epoch_numbers": "plugins.run_numbers",
    "flat_features": "methods.features",
    "gram": "methods.features",
    "hookimpl": "plugins.hookspecs",
    "l2_normalize": "methods.features",
    "match_spatial": "methods.features",
    "pool_to_vectors": "methods.features",
    "projector": "methods.connectors",
    "push": "shipping.push",
    "resize_maps": "methods.features",
    "run_choices": "plugins.run_numbers",
    "vector_width": "methods.features",
    "warmup": "methods.schedule",
}

__all__ = [
    "API",
    "Adapter",
    "Anatomy",
    "Comparison",
    "ComparisonView",
    "Curriculum",
    "Data",
    "DataError",
    "DataInfo",
    "Demand",
    "Distiller",
    "Engine",
    "Head",
    "KDError",
    "LaneView",
    "LaunchError",
    "Launcher",
    "Measure",
    "ModelError",
    "ModuleView",
    "Names",
    "Outcome",
    "Pair",
    "Phase",
    "PluginError",
    "Processes",
    "Recorder",
    "Registrar",
    "Registry",
    "Resources",
    "Result",
    "ResultView",
    "RunInfo",
    "RunLog",
    "RunView",
    "Scoring",
    "SettingsError",
    "Split",
    "Step",
    "StepTransform",
    "StorageError",
    "TapError",
    "TapPair",
    "Task",
    "Trace",
    "Tracking",
    "TrainSettings",
    "TrainingError",
    "Unit",
    "Worker",
    "epoch_numbers",
    "flat_features",
    "gram",
    "hookimpl",
    "l2_normalize",
    "match_spatial",
    "pool_to_vectors",
    "projector",
    "push",
    "resize_maps",
    "run_choices",
    "vector_width",
    "warmup",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'kdengine' has no attribute '{name}'")
    return getattr(import_module(f"kdengine.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOME]
