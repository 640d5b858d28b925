"""Tasks: what a student is trained for, with its loss and metrics."""

from kdengine.tasks.classification import Classification
from kdengine.tasks.multilabel import Multilabel
from kdengine.tasks.task import DataInfo, Task

__all__ = ["BUILT_IN", "Classification", "DataInfo", "Multilabel", "Task"]

BUILT_IN: dict[str, type[Task]] = {task.name: task for task in (Classification, Multilabel)}
"""The built-in tasks, by name."""
