"""Tasks: what a student is trained for, with its loss and metrics."""

from kdengine.tasks.classification import Classification
from kdengine.tasks.task import DataInfo, Task

__all__ = ["BUILT_IN", "Classification", "DataInfo", "Task"]

BUILT_IN: dict[str, type[Task]] = {Classification.name: Classification}
"""The built-in tasks, by name."""
