"""Everything that the runs of a comparison share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from ..config import Preprocessing
from ..data import Dataset
from ..data.cross_validation import Folds
from ..settings import Settings
from ..surgery import GraftPlan
from ..tasks import Metric, Task
from ..training import FitResult, Precision, Progress, World, fit
from .analysis_plan import AnalysisPlan
from .build_model import ModelSource
from .variants import Variant


@dataclass(frozen=True)
class ComparisonContext:
    """What all runs of a comparison share.

    Attributes:
        source: what the models start from.
        settings: of every run, but for what a variant changes in the recipe.
        dataset: images and targets.
        task: what is learned.
        analysis: how the runs are compared.
        preprocessing: how the models get the images.
        precision: of every run.
        plans: variant name -> its grafts; None for the plain backbone.
        folder: of the comparison.
        device: where training runs.
        world: the processes that train together.
        folds: how the images are parted for each "seed" in cross-validation; None for a test set of its own.
    """

    source: ModelSource
    settings: Settings
    dataset: Dataset
    task: Task
    analysis: AnalysisPlan
    preprocessing: Preprocessing
    precision: Precision
    plans: Mapping[str, GraftPlan | None]
    folder: Path
    device: torch.device
    world: World
    folds: Folds | None = None

    @property
    def metric(self) -> Metric:
        """What the variants are compared by."""
        return self.analysis.metric

    def run_dir(self, variant: Variant, seed: int) -> Path:
        return self.folder / "runs" / variant.slug / f"seed-{seed}"

    def data_of(self, seed: int) -> Dataset:
        """What the runs of a seed, or of a fold, are trained and tested on."""
        return self.dataset if self.folds is None else self.folds.dataset(seed)

    def title(self, seed: int) -> str:
        """What a seed is called while it is trained."""
        return f"seed {seed}" if self.folds is None else self.folds.name(seed)

    def build(self, variant: Variant, seed: int) -> nn.Module:
        """The model of a run before it is trained."""
        return self.source.build(self.dataset.classes, variant, seed, plan=self.plans[variant.name])

    def fit(self, variant: Variant, seed: int, progress: Progress) -> FitResult:
        """Train one run, or go on with it."""
        machine = replace(self.settings.machine, precision=str(self.precision))
        return fit(
            self.build(variant, seed),
            self.data_of(seed),
            recipe=replace(self.settings, recipe=variant.recipe(self.settings.recipe), machine=machine),
            run_dir=self.run_dir(variant, seed),
            seed=seed + variant.seed_offset,
            variant=variant.name,
            progress=progress,
        )
