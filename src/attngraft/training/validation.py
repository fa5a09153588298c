"""Validate a model after every epoch: predictions and gates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import nn

from ..errors import NotFiniteError
from ..tasks import Task
from .evaluate import Evaluation, evaluate
from .gate_metrics import record_gates
from .oom import Portions
from .run_context import RunContext


class Validator:
    """Measures a model that is being trained; all processes take part.

    Args:
        context: of the training.
        before_batch: called between two batches, equally often in all processes; may end the measurement.
    """

    def __init__(self, context: RunContext, before_batch: Callable[[], None]) -> None:
        self.context = context
        self.before_batch = before_batch
        self.portions = Portions(context.note)

    @property
    def split(self) -> str:
        """The validation images, or where there are none those of the test, on which then nothing depends."""
        return "val" if self.context.dataset.val is not None else "test"

    def evaluate(self, model: nn.Module, step: int) -> Evaluation:
        """Predictions for all images of the split.

        Args:
            model: with the weights that count.
            step: optimiser steps that it has taken, for errors.

        Raises:
            NotFiniteError: a prediction is not finite.
        """
        self.context.world.align_buffers_(model)
        images = getattr(self.context.dataset, self.split)
        try:
            return evaluate(
                model, images, self.context.evaluation, portions=self.portions, before_batch=self.before_batch
            )
        except NotFiniteError as error:
            raise NotFiniteError(f"after step {step} {error}") from None

    def evaluate_split(self, model: nn.Module, split: str, task: Task) -> Evaluation:
        """Predictions of the trained model for "val" or "test", as the task reads them."""
        images = getattr(self.context.dataset, split)
        return evaluate(model, images, replace(self.context.evaluation, task=task), portions=self.portions)

    def gates(self, model: nn.Module) -> dict[str, Any]:
        """The gates for a row of metrics; nothing without grafts. After `evaluate`, when all have the same buffers."""
        context = self.context
        found = record_gates(
            model,
            getattr(context.dataset, self.split),
            context.preprocessing,
            memory_format=context.precision.memory_format,
            device=context.device,
            portions=self.portions,
        )
        return {"gates": found} if found else {}
