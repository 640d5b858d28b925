"""Tasks: what a student is for, its loss against the targets and its metrics."""

from kdengine.tasks.classification import Classification
from kdengine.tasks.task import DataInfo, Task

__all__ = ["BUILT_IN", "Classification", "DataInfo", "Task"]

BUILT_IN: dict[str, type[Task]] = {Classification.name: Classification}
"""The tasks that kdengine itself offers, by name."""
