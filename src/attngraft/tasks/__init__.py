"""Tasks: what a network is trained to predict, one file each."""

from __future__ import annotations

from .classification import Classification
from .contract import (
    TASKS,
    Capability,
    Criterion,
    LossOptions,
    Metric,
    OutputLoss,
    Rows,
    Task,
    create_task,
    find_metric,
    left_out_metric,
    mean_metric,
    primary,
    pseudo_values,
    require,
)
from .detection import Detection
from .model_task import describe_task, note_task_of_, task_from, task_of
from .multilabel import MultiLabel
from .regression import Regression
from .segmentation import Segmentation

__all__ = [
    "TASKS",
    "Capability",
    "Classification",
    "Criterion",
    "Detection",
    "LossOptions",
    "Metric",
    "MultiLabel",
    "OutputLoss",
    "Regression",
    "Rows",
    "Segmentation",
    "Task",
    "create_task",
    "describe_task",
    "find_metric",
    "left_out_metric",
    "mean_metric",
    "note_task_of_",
    "primary",
    "pseudo_values",
    "require",
    "task_from",
    "task_of",
]
