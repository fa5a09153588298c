"""Power of a comparison over seeds and test images: what it could have seen, and what a plan needs to see a given effect."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .effects import Effect, error_of_mean

Floats = NDArray[np.float64]

MOST_SEEDS = 200  # more seeds than this are no practical plan
VARIANCE_BOUND = 0.8  # a plan counts on the seed variance at this upper confidence bound
RANGE_ENDS = (0.1, 0.9)
QUADRATURE = 100


@dataclass(frozen=True)
class Detectable:
    """The true effect that a comparison finds with the stated power.

    Attributes:
        size: the claim; found with that power on average over what the variance may be.
        low, high: what it may be with 80 % confidence, as the noise is itself estimated from a few seeds.
    """

    size: float
    low: float
    high: float


@dataclass(frozen=True)
class Noise:
    """Variance components of a paired difference, for plans.

    Attributes:
        seed: between seeds, at its upper 80 % bound where it was estimated.
        image: between images.
        residual: for one seed and one image.
    """

    seed: float
    image: float
    residual: float

    def error(self, seeds: Floats | int, images: Floats | int) -> tuple[Floats, Floats]:
        """Standard error of the mean difference and its degrees of freedom."""
        count, number = np.asarray(seeds, dtype=np.float64), np.asarray(images, dtype=np.float64)
        residual = np.full(np.broadcast(count, number).shape, self.residual)
        return error_of_mean(residual + number * self.seed, residual + count * self.image, residual, count, number)

    def detectable(self, seeds: Floats | int, images: Floats | int, *, confidence: float, power: float = 0.8) -> Floats:
        """The smallest true effect that is found with this power; infinite with fewer than two seeds or images."""
        count, number = np.broadcast_arrays(np.asarray(seeds, float), np.asarray(images, float))
        possible = (count >= 2) & (number >= 2)
        error, df = self.error(np.maximum(count, 2), np.maximum(number, 2))
        return np.where(possible, _shift(df, confidence, power) * error, np.inf)


def smallest_detectable(effect: Effect, power: float = 0.8, limit: float = math.inf) -> Detectable:
    """The smallest true effect that a comparison this noisy finds with the given power.

    The standard error is estimated, so the noncentral t distribution alone claims too much: it is multiplied by what
    makes its power right on average over the chi-squared distribution of the estimate (1.55 at 2 degrees of freedom,
    1.11 at 8). Satterthwaite's degrees of freedom are themselves too many where the seeds happen to agree; for that
    factor the geometric mean of them and of those of the seeds alone is taken. Where nothing varied the claim is the
    width of the bound.

    Args:
        effect: what was seen.
        power: chance to find an effect of the claimed size.
        limit: the largest effect that is possible; no claim is above it.
    """
    if effect.method in ("no variation", "one image") or effect.standard_error == 0:
        width = min(max(effect.high - effect.mean, effect.mean - effect.low), limit)
        return Detectable(width, width, width)
    from scipy.special import chdtri

    df = effect.degrees_of_freedom
    known = float(_shift(np.array(df), effect.confidence, power)) * effect.standard_error
    surer = df if effect.seeds < 2 else math.sqrt(df * (effect.seeds - 1))
    size = known * inflation(round(min(df, surer), 3), effect.confidence, power)
    low, high = (known * math.sqrt(df / float(chdtri(df, 1 - end))) for end in reversed(RANGE_ENDS))
    return Detectable(*(min(value, limit) for value in (size, min(low, size), max(high, size))))


def inflation(df: float, confidence: float, power: float) -> float:
    """How much more than with a known standard error has to be claimed, at these degrees of freedom."""
    return averaged_factor(df, confidence, power) / float(_shift(np.array(df), confidence, power))


@lru_cache(maxsize=4096)
def averaged_factor(df: float, confidence: float, power: float) -> float:
    """The multiple c of an estimated standard error with E[P(|t| significant | c sqrt(W))] = power, W ~ chi2(df) / df.

    >>> round(averaged_factor(1000.0, 0.95, 0.8), 2)
    2.81
    """
    from scipy.special import chdtri, nctdtr, stdtrit

    critical = float(stdtrit(df, 0.5 + confidence / 2))
    tails = (np.arange(QUADRATURE) + 0.5) / QUADRATURE
    spread = np.sqrt(chdtri(df, tails) / df)

    def reached(factor: float) -> float:
        with np.errstate(all="ignore"):
            beyond = 1 - nctdtr(df, factor * spread, critical)
        return float(np.where(np.isfinite(beyond), beyond, 1.0).mean())

    low, high = 0.0, critical + 1
    while reached(high) < power and high < 1e6:
        high *= 2
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if reached(middle) < power else (low, middle)
    return high


def at_level(effect: Effect, level: float) -> Effect:
    """The effect with the confidence of a two-sided test at this level, for forecasts: its interval is not computed anew."""
    return replace(effect, confidence=1 - level)


def at_corrected_level(effect: Effect, comparisons: int) -> Effect:
    """The effect with the confidence that one of several comparisons needs (Bonferroni, Holm's first step)."""
    return at_level(effect, (1 - effect.confidence) / max(comparisons, 1))


def planning_noise(effects: Sequence[Effect]) -> Noise:
    """The noise to plan with: the mean over effects that were seen, the seed variance at its upper 80 % bound.

    The mean square of S seeds is a chi-squared variable on S - 1 degrees of freedom, so ``MS (S - 1) / chi2_0.2`` is
    below the truth in one case of five. What a pilot saw as no variance between its seeds is therefore not planned with
    as none.

    Args:
        effects: of at least two seeds and two images each; one at least.
    """
    from scipy.special import chdtri

    def bound(effect: Effect) -> float:
        df, square = effect.seeds - 1, effect.residual_variance + effect.images * effect.seed_variance
        upper = square * df / float(chdtri(df, VARIANCE_BOUND))
        return max((upper - effect.residual_variance) / effect.images, 0.0)

    return Noise(
        float(np.mean([bound(effect) for effect in effects])),
        float(np.mean([effect.image_variance for effect in effects])),
        float(np.mean([effect.residual_variance for effect in effects])),
    )


def seeds_needed(noise: Noise, images: int, effect: float, *, confidence: float, power: float = 0.8) -> int | None:
    """The fewest seeds, at least two, that find a true effect of this size; None where 200 are too few."""
    seeds = np.arange(2, MOST_SEEDS + 1, dtype=np.float64)
    enough = np.flatnonzero(noise.detectable(seeds, images, confidence=confidence, power=power) <= effect)
    return int(seeds[enough[0]]) if enough.size else None


def images_needed(
    noise: Noise, seeds: int, effect: float, *, confidence: float, power: float = 0.8, most: int = 10_000_000
) -> int | None:
    """The fewest test images that find a true effect of this size with these seeds; None where none are enough."""
    low, high = 1, most

    def finds(images: int) -> bool:
        return bool(noise.detectable(seeds, images, confidence=confidence, power=power) <= effect)

    if not finds(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if finds(middle) else (middle, high)
    return high


def _shift(df: Floats, confidence: float, power: float) -> Floats:
    """Noncentrality that a two-sided t test finds with this power."""
    from scipy.special import nctdtrinc, stdtrit

    critical = stdtrit(df, 0.5 + confidence / 2)
    with np.errstate(all="ignore"):
        shift = np.asarray(nctdtrinc(df, 1 - power, critical), dtype=np.float64)
        central = critical + stdtrit(df, power)
    return np.where(np.isfinite(shift), shift, central)
