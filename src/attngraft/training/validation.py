"""Validate a model after every epoch: predictions, and statistics of the gates for `metrics.jsonl`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..attention import Gates
from ..config import Preprocessing
from ..data import ImageSet, build_transform, evenly_spread, make_loader
from ..errors import NotFiniteError
from ..surgery import grafts, uncompiled, watching
from ..surgery.gate_statistics import GateMoments
from ..tasks import Task
from .evaluate import Evaluation, evaluate, in_eval_mode
from .oom import Portions
from .run_context import RunContext

IMAGES = 64
NUMBERS = ("mean", "spread", "distance", "dynamic")
Record = dict[str, dict[str, dict[str, float | None]]]


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


def record_gates(
    model: nn.Module,
    images: ImageSet,
    preprocessing: Preprocessing,
    *,
    memory_format: torch.memory_format = torch.contiguous_format,
    device: torch.device | None = None,
    portions: Portions | None = None,
) -> Record:
    """Site path -> part -> some of its `PartStatistics`, over a few images that are evenly spread.

    In the precision of the weights, whatever the training's autocast: near 1 a gate in bf16 has steps of 1/256. The model
    is not changed and no random number is drawn. Empty for a model without grafts; None for what is not
    finite. Every process of a training measures the same images. Where memory does not suffice for all of them at once,
    they are measured in parts.
    """
    model = uncompiled(model)
    live = grafts(model)
    if not live:
        return {}
    device = device or next(model.parameters()).device
    chosen = evenly_spread(len(images), IMAGES)
    transform = build_transform("none", preprocessing, train=False)

    def measure(most: int) -> dict[str, dict[str, GateMoments]]:
        moments: dict[str, dict[str, GateMoments]] = {}

        def see(path: str, x: Tensor, gates: Gates) -> None:
            attention = live[path]
            for part in attention.parts:
                found = moments.setdefault(path, {})
                if part not in found:
                    found[part] = GateMoments(neutral=attention.neutral, limits=attention.limits)
                found[part].add(getattr(gates, part))

        with torch.no_grad(), in_eval_mode(model), watching(model, see):
            for batch in make_loader(images.select(chosen), transform, batch_size=most):
                model(batch.images.to(device, memory_format=memory_format))
        return moments

    moments = (portions or Portions()).do(measure, IMAGES, "the record of the gates")
    return {path: {part: _numbers(found) for part, found in parts.items()} for path, parts in moments.items()}


def _numbers(moments: GateMoments) -> dict[str, float | None]:
    """With 5 significant digits: what is kept for every epoch of every run should be short."""
    values = moments.statistics().to_json()
    return {name: None if (value := values[name]) is None else float(f"{value:.5g}") for name in NUMBERS}
