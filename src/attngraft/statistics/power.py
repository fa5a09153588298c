"""Power of a comparison over seeds and test images."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from .effects import Effect, Floats, error_of_mean

MOST_SEEDS = 200  # more seeds than this are no practical advice
MOST_IMAGES = 1_000_000


class Needed(NamedTuple):
    """What would settle an effect of the observed size; None where that alone cannot.

    Attributes:
        more_seeds: seeds to add, with the images as they are.
        images: test images in total, with the seeds as they are.
    """

    more_seeds: int | None
    images: int | None


def smallest_detectable(effect: Effect, power: float = 0.8) -> float:
    """The smallest true effect that a comparison this noisy finds with the given probability.

    From the noncentral t distribution. Where nothing varied it is the width of the bound.
    """
    if effect.method in ("no variation", "one image"):
        return max(effect.high - effect.mean, effect.mean - effect.low)
    error, df = np.array([effect.standard_error]), np.array([effect.degrees_of_freedom])
    return float(_detectable(error, df, effect.confidence, power)[0])


def at_corrected_level(effect: Effect, comparisons: int) -> Effect:
    """The effect with the confidence that one of several comparisons needs (Bonferroni, Holm's first step).

    Only for forecasts: its interval is not computed anew.
    """
    return replace(effect, confidence=1 - (1 - effect.confidence) / max(comparisons, 1))


def needed(effect: Effect, power: float = 0.8) -> Needed:
    """How many more seeds, or how many images, would find a true effect of the observed size.

    A forecast from the estimated variance components, with the given power. With one seed nothing can be said. Where
    the variance between seeds was estimated as 0, which a few seeds often do by chance, nothing is said about images:
    if it is not 0, no number of images need suffice.
    """
    if effect.method != "crossed" or effect.mean == 0.0:
        return Needed(None, None)
    seeds = np.arange(effect.seeds, effect.seeds + MOST_SEEDS + 1, dtype=np.float64)
    grid = np.geomspace(effect.images, max(MOST_IMAGES, effect.images), 200)
    images = np.unique(np.ceil(grid.round(6)))
    more = _first_settled(effect, seeds, np.full_like(seeds, effect.images), power)
    total = _first_settled(effect, np.full_like(images, effect.seeds), images, power)
    return Needed(
        None if more is None else int(seeds[more]) - effect.seeds,
        None if total is None or effect.seed_variance <= 0 else int(images[total]),
    )


def _detectable(error: Floats, df: Floats, confidence: float, power: float) -> Floats:
    from scipy.special import nctdtrinc, stdtrit

    critical = stdtrit(df, 0.5 + confidence / 2)
    with np.errstate(all="ignore"):
        shift = np.asarray(nctdtrinc(df, 1 - power, critical), dtype=np.float64)
        central = critical + stdtrit(df, power)
    return np.where(np.isfinite(shift), shift, central) * error


def _first_settled(effect: Effect, seeds: Floats, images: Floats, power: float) -> int | None:
    residual = np.full_like(seeds, effect.residual_variance)
    ms_seed = residual + images * effect.seed_variance
    ms_image = residual + seeds * effect.image_variance
    error, df = error_of_mean(ms_seed, ms_image, residual, seeds, images)
    settled = np.flatnonzero(_detectable(error, df, effect.confidence, power) <= abs(effect.mean))
    return int(settled[0]) if settled.size else None
