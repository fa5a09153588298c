"""Equal tuning: every variant gets the same number of trials of the same learning rates, on validation images."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..data import Dataset
from ..data.build_dataset import strata_of
from ..data.splits import carve_loosely
from ..errors import ConfigError, NotFiniteError, counted
from ..training import Progress, Whole
from ..training.open_data import VALIDATION_SHARE
from .comparison_context import ComparisonContext
from .variants import BASELINE, Variant

log = logging.getLogger(__name__)
LOWEST, HIGHEST = 0.25, 4.0  # factors on the recipe's learning rates
MOST_TRIALS = 20
TUNING_SEED = 10_000  # no seed of the comparison, so that no run is trained on what was chosen with it


@dataclass(frozen=True)
class Trial:
    """One learning rate of one variant.

    Attributes:
        lr_scale: factor on the recipe's rates.
        score: of the metric on the validation images; None where training diverged.
    """

    variant: str
    lr_scale: float
    score: float | None


@dataclass(frozen=True)
class Tuning:
    """What was tried, and the rate that each variant is trained with.

    Attributes:
        images: how many validation images decided.
        chosen: variant name -> factor.
    """

    images: int
    trials: tuple[Trial, ...]
    chosen: Mapping[str, float]


def check_trials(trials: int) -> None:
    """Raise ConfigError for a number of trials that cannot be."""
    if not 0 <= trials <= MOST_TRIALS:
        raise ConfigError(f"tune is {trials}: expected 0 (off) to {counted(MOST_TRIALS, 'trial')} for each variant.")


def rates(trials: int) -> tuple[float, ...]:
    """Factors on the recipe's learning rates, equally spaced in the logarithm; the recipe's own alone for one trial.

    >>> rates(3)
    (0.25, 1.0, 4.0)
    """
    found = np.geomspace(LOWEST, HIGHEST, trials) if trials > 1 else np.ones(trials)
    return tuple(round(float(factor), 4) for factor in found)


def tune(
    context: ComparisonContext, variants: Sequence[Variant], trials: int, progress: Progress
) -> tuple[tuple[Variant, ...], Tuning | None]:
    """The variants with the learning rates that are best for each on validation images.

    The test images are not touched: the trials train on a part of the training images and are measured on the rest
    of them, or on the validation images that the data bring. The second self of the baseline trains as the baseline.

    Args:
        context: of the comparison.
        variants: all of them get as many trials.
        trials: 0 leaves the variants as they are.
        progress: where to show progress.
    """
    if not trials:
        return tuple(variants), None
    dataset = tuning_dataset(context.dataset, context.settings.data.split_seed)
    apart = replace(context, dataset=dataset, folder=context.folder / "tuning")
    tried = [variant for variant in variants if not variant.is_again]
    found: list[Trial] = []
    total = len(tried) * trials
    whole = Whole(progress, total, log if context.world.is_main else None)
    for number, (variant, factor) in enumerate((v, f) for v in tried for f in rates(trials)):
        title = f"trial {number + 1} of {total}: {variant.name}, rates x {factor:g}"
        found.append(_tried(apart, variant, factor, whole.part(title)))
        best = _best(found, variant.name, context.metric.higher_is_better)
        whole.tell("trials", f"best so far for {variant.name}: rates x {best:g}")
    chosen = {variant.name: _best(found, variant.name, context.metric.higher_is_better) for variant in tried}
    factors = {v.name: chosen[BASELINE if v.is_again else v.name] for v in variants}
    tuned = tuple(replace(variant, lr_scale=factors[variant.name]) for variant in variants)
    return tuned, Tuning(len(dataset.test), tuple(found), factors)


def tuning_dataset(dataset: Dataset, seed: int) -> Dataset:
    """The data set with its validation images in place of the test images, taken from training where there are none."""
    if dataset.val is not None:
        return replace(dataset, test=dataset.val, val=None)
    train = dataset.train
    held = carve_loosely(
        strata_of(train.targets), train.families, fraction=VALIDATION_SHARE, seed=seed, purpose="tune", sets=None
    )
    return replace(dataset, train=train.select(np.flatnonzero(~held)), test=train.select(np.flatnonzero(held)))


def _tried(context: ComparisonContext, variant: Variant, factor: float, progress: Progress) -> Trial:
    trial = replace(variant, lr_scale=factor)
    apart = replace(context, folder=context.folder / f"lr-{factor:g}")
    try:
        result = apart.fit(trial, TUNING_SEED, progress)
    except NotFiniteError:
        return Trial(variant.name, factor, None)
    return Trial(variant.name, factor, result.evaluation.value(context.metric.name))


def _best(trials: Sequence[Trial], name: str, higher_is_better: bool) -> float:
    """The best factor of a variant, of equal ones that nearest to the recipe's; the recipe's where all diverged."""
    sign = 1 if higher_is_better else -1
    known = [(trial.score, trial.lr_scale) for trial in trials if trial.variant == name and trial.score is not None]
    ranked = sorted(known, key=lambda pair: (-sign * pair[0], abs(np.log(pair[1]))))
    return ranked[0][1] if ranked else 1.0
