"""Train every variant with every seed."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import nn

from ..errors import NotFiniteError
from ..training import Evaluation, FitResult, Progress, Whole
from .comparison_context import ComparisonContext
from .comparison_folder import keep
from .plain_controls import longer_epochs
from .side_by_side import can_train_side_by_side, train_side_by_side
from .variants import BASELINE, LONGER, Variant

log = logging.getLogger(__name__)


@dataclass
class Results:
    """What became of the runs.

    Attributes:
        finished: variant name -> seed -> result, without the trained model, which is on disk.
        failures: variant name -> seed -> why its training diverged.
    """

    finished: dict[str, dict[int, FitResult]] = field(default_factory=dict)
    failures: dict[str, dict[int, str]] = field(default_factory=dict)

    def evaluations(self) -> dict[str, dict[int, Evaluation]]:
        """Variant name -> seed -> predictions of the run."""
        return {name: {seed: run.evaluation for seed, run in runs.items()} for name, runs in self.finished.items()}

    def failed_seeds(self) -> Mapping[str, Sequence[int]]:
        """Variant name -> seeds whose run diverged, of the variants that have some."""
        return {name: tuple(reasons) for name, reasons in self.failures.items() if reasons}


def run_all(
    context: ComparisonContext,
    variants: Sequence[Variant],
    seeds: Sequence[int],
    progress: Progress,
    *,
    at_once: int = 1,
) -> Results:
    """Train what is not trained yet; seed by seed, so that an unfinished comparison has whole pairs.

    A run whose numbers are no longer finite is noted, and the others go on: that a variant diverges is a result. With
    `at_once` above 1 so many train at a time, where that can be done here.

    Raises:
        TrainingError: a run could not go on for another reason.
        NotFiniteError: the plain backbone diverged with every seed, so that there is nothing to compare with.
    """
    results = Results({variant.name: {} for variant in variants}, {variant.name: {} for variant in variants})
    total = len(variants) * len(seeds)
    whole = Whole(progress, total, log if context.world.is_main else None)
    order = sorted(variants, key=lambda variant: variant.attention == LONGER)  # it has to know how long others took
    if at_once > 1 and can_train_side_by_side(context):
        runs = [(variant, seed) for seed in seeds for variant in order if variant.attention != LONGER]
        train_side_by_side(context, runs, at_once, progress)
    for number, (seed, variant) in enumerate((s, v) for s in seeds for v in order):
        title = f"run {number + 1} of {total}: {variant.name}, {context.title(seed)}"
        if variant.attention == LONGER:
            variant = _lengthened(context, variant, results, seed)
        try:
            part = whole.part(title)
            result = context.fit(variant, seed, part)
        except NotFiniteError as error:
            results.failures[variant.name][seed] = str(error)
            if variant.name == BASELINE and len(results.failures[BASELINE]) == len(seeds):
                raise
        else:
            results.finished[variant.name][seed] = replace(result, model=nn.Identity())
        if part.pace is not None:
            whole.tell("runs", best_so_far(context, results))
    return results


def best_so_far(context: ComparisonContext, results: Results) -> str:
    """The variant that is best on the test images by its mean over the seeds that all variants have ended.

    Nothing before there is such a seed; a variant that diverged with one of them is none. A verdict needs all runs.
    """
    metric = context.metric
    ended = [{*runs, *results.failures[name]} for name, runs in results.finished.items()]
    seeds = set.intersection(*ended)
    if not seeds:
        return ""
    means = {
        name: statistics.fmean(runs[seed].evaluation.value(metric.name) for seed in sorted(seeds))
        for name, runs in results.finished.items()
        if seeds <= set(runs)
    }
    if not means:
        return "none of them with finite numbers"
    best = (max if metric.higher_is_better else min)(means, key=lambda name: means[name])
    return f"best so far: {best}, {metric.label} {metric.show(means[best])} (mean of {len(seeds)})"


def _lengthened(context: ComparisonContext, variant: Variant, results: Results, seed: int) -> Variant:
    """The control with the epochs that it gets, which the main process measures and keeps."""

    def measured() -> int:
        recipe, folder = context.settings.recipe, context.folder
        epochs, ratio = longer_epochs(variant, recipe.epochs, results.finished, seed, folder)
        keep(
            folder,
            "matched",
            {variant.slug: {"epochs": epochs, "time_ratio": ratio, "like": variant.options.get("like")}},
        )
        return epochs

    return replace(variant, epochs=context.world.in_main(measured))
