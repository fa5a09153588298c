"""What is noted on a model: the names of its outputs, its task, and what was folded away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from .compiled import uncompiled

CLASSES_ATTRIBUTE = "attngraft_classes"
FOLD_ATTRIBUTE = "attngraft_fold"
TASK_ATTRIBUTE = "attngraft_task"


@dataclass(frozen=True)
class FoldNote:
    """What was folded away, and from which model: loading that one again undoes it.

    Attributes:
        parts: (site, part, what became of it) of every part that changed.
        tolerance: how much accuracy was allowed to be lost, as a fraction.
        images: how many images the loss was measured on.
        source: path of the model that was folded; None for one in memory.
        sha256: of that file.
    """

    parts: tuple[tuple[str, str, str], ...]
    tolerance: float
    images: int
    source: str | None = None
    sha256: str | None = None


def note_classes_(model: nn.Module, classes: Sequence[str]) -> nn.Module:
    """Note on the model what its logits are called."""
    return _noted_(model, CLASSES_ATTRIBUTE, tuple(classes))


def classes_of(model: nn.Module) -> tuple[str, ...]:
    """What the model's logits are called; empty where unknown."""
    return tuple(getattr(model, CLASSES_ATTRIBUTE, ()))


def note_task_(model: nn.Module, task: Mapping[str, Any] | None) -> nn.Module:
    """Note on the model what it is trained for: the name and the fields of a task, None for classification."""
    return _noted_(model, TASK_ATTRIBUTE, None if task is None else dict(task))


def task_note(model: nn.Module) -> dict[str, Any] | None:
    """Name and fields of the task that the model is trained for; None for classification."""
    note = getattr(uncompiled(model), TASK_ATTRIBUTE, None)
    return note if isinstance(note, dict) else None


def note_fold_(model: nn.Module, note: FoldNote) -> nn.Module:
    """Note on the model what was folded away."""
    return _noted_(model, FOLD_ATTRIBUTE, note)


def fold_note(model: nn.Module) -> FoldNote | None:
    """What was folded away; None for a model that was not folded."""
    note = getattr(uncompiled(model), FOLD_ATTRIBUTE, None)
    return note if isinstance(note, FoldNote) else None


def _noted_(model: nn.Module, attribute: str, value: Any) -> nn.Module:
    setattr(model, attribute, value)
    return model
