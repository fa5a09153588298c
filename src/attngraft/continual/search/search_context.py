"""Everything that the trials of a search share."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from ...comparison.build_model import ModelSource
from ...config import Preprocessing
from ...costs import count_macs, count_parameters, measure_latency
from ...data import Dataset, ImageSet
from ...surgery import load
from ...tasks import Task, primary
from ...training import (
    Evaluation,
    EvaluationContext,
    FitResult,
    Precision,
    Progress,
    Settings,
    ShouldStop,
    evaluate,
    fit,
    titled,
)
from .budget import Clock, Ticking
from .requirement import Measured, Quantity, Requirement, measure, quantities_of
from .search_record import Iteration, SearchRecord
from .search_space import Params, Space

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SearchContext:
    """What all trainings of a search share.

    Attributes:
        dataset: training and validation images; it has no test images, `dataset.test` are the validation images.
    """

    source: ModelSource
    space: Space
    settings: Settings
    task: Task
    dataset: Dataset
    preprocessing: Preprocessing
    precision: Precision
    device: torch.device
    requirement: Requirement
    clock: Clock
    iteration: Iteration
    progress: Progress

    @property
    def record(self) -> SearchRecord:
        return self.iteration.record

    @property
    def epochs(self) -> int:
        """Of every training."""
        return next(iter(self.space.recipes.values())).epochs

    @cached_property
    def primary(self) -> Quantity:
        """The task's primary metric."""
        return Quantity.of(primary(self.task))

    @cached_property
    def measured(self) -> tuple[Quantity, ...]:
        """The metrics of every trial: those of the requirement, the primary one, and the loss where it is one."""
        known = quantities_of(self.task)
        names = [clause.metric for clause in self.requirement.of_images]
        names += [name for name in (self.primary.name, "loss") if name in known]
        return tuple(known[name] for name in dict.fromkeys(names))

    def build(self, params: Params, seed: int) -> nn.Module:
        """The untrained model of a trial."""
        shape = self.preprocessing.input.shape
        return self.source.build(self.dataset.classes, self.space.variant(params), seed, shape=shape)

    def train(
        self, params: Params, run_dir: Path, seed: int, title: str, on_epoch: ShouldStop | None = None
    ) -> FitResult:
        """Train one model in its own run folder, or continue it."""
        machine = replace(self.settings.machine, precision=str(self.precision), curve=True)
        return fit(
            self.build(params, seed),
            self.dataset,
            recipe=replace(self.settings, recipe=self.space.recipe(params), machine=machine),
            run_dir=run_dir,
            seed=seed,
            variant=self.space.variant(params).name,
            progress=titled(Ticking(self.progress, self.clock), title, log),
            on_epoch=on_epoch,
        )

    def evaluate(self, run_dir: Path, images: ImageSet) -> Evaluation:
        """Evaluate the model of a finished run."""
        model = load(run_dir).to(self.device).to(memory_format=self.precision.memory_format)  # type: ignore[call-overload]
        workers = self.settings.machine.resolve_workers()
        context = EvaluationContext.of(model, precision=self.precision, device=self.device, workers=workers)
        return evaluate(model, images, context)

    def measure(self, evaluations: Sequence[Evaluation], images: ImageSet) -> dict[str, Measured]:
        """The metrics of evaluations of these images, one per seed."""
        return {quantity.name: measure(quantity, evaluations, groups=images.groups) for quantity in self.measured}

    def costs(self, model: nn.Module) -> dict[str, float]:
        """Parameters, multiply-accumulates and, where it is required, the latency of one image."""
        shape = self.preprocessing.input.shape
        found: dict[str, float] = {"parameters": count_parameters(model), "macs": count_macs(model, shape)}
        if any(clause.metric == "latency_ms" for clause in self.requirement.clauses):
            layout = self.precision.memory_format
            model = model.eval().to(self.device).to(memory_format=layout)  # type: ignore[call-overload]
            example = torch.zeros(1, *shape, device=self.device).to(memory_format=layout)
            with self.precision.autocast(self.device):
                found["latency_ms"] = measure_latency({"model": model}, example, repeats=50)["model"].median
        return found
