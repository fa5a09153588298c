"""The task of a model, as its file records it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from ..config import to_dict
from ..errors import ConfigError
from ..surgery import classes_of, note_classes_, note_task_, task_note
from .classification import Classification
from .contract import TASKS, Task, create_task


def describe_task(task: Task) -> dict[str, Any] | None:
    """Name and fields of a task for records, without its outputs, which these call classes.

    None for classification, unless it was calibrated.
    """
    fields = to_dict(task)
    del fields["outputs"]
    if task.name == Classification.name and not fields:
        return None
    return {"name": task.name, **fields}


def task_from(record: Any, outputs: Sequence[str]) -> Task:
    """The task that `describe_task` described.

    Raises:
        ConfigError: no such task, or no valid fields.
    """
    if record is None:
        return Classification(tuple(outputs))
    if record.get("name") not in TASKS:
        raise ConfigError(
            f"the task '{record.get('name')}' is not among {', '.join(TASKS)}: import the module that registers it first"
        )
    return create_task(str(record.get("name")), outputs, **{k: v for k, v in record.items() if k != "name"})


def note_task_of_(model: nn.Module, task: Task) -> nn.Module:
    """Note on the model what it is trained for and what its outputs are called."""
    note_task_(model, describe_task(task))
    return note_classes_(model, task.outputs)


def task_of(model: nn.Module) -> Task:
    """What the model was trained for; classification without class names where nothing is known."""
    return task_from(task_note(model), classes_of(model))
