"""Tasks: what a network is trained to predict. One file each; `contract.py` says what every task promises."""

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
from .multilabel import MultiLabel
from .regression import Regression

__all__ = [
    "TASKS",
    "Capability",
    "Classification",
    "Criterion",
    "LossOptions",
    "Metric",
    "MultiLabel",
    "OutputLoss",
    "Regression",
    "Rows",
    "Task",
    "create_task",
    "find_metric",
    "left_out_metric",
    "mean_metric",
    "primary",
    "pseudo_values",
    "require",
]
