"""Tasks: what a student is trained for, with its loss and metrics."""

from kdengine.tasks.classification import Classification
from kdengine.tasks.multilabel import Multilabel
from kdengine.tasks.segmentation import Segmentation
from kdengine.tasks.task import DataInfo, Task
from kdengine.tasks.unlabelled import Unlabelled

__all__ = ["BUILT_IN", "Classification", "DataInfo", "Multilabel", "Segmentation", "Task", "Unlabelled"]

BUILT_IN: dict[str, type[Task]] = {task.name: task for task in (Classification, Multilabel, Segmentation, Unlabelled)}
"""The built-in tasks, by name."""
