"""Bootstrap intervals of functions of means over images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1_000
MOST_COUNTS = 4_000_000  # numbers held at once


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval."""

    mean: float
    low: float
    high: float


def resampled_means(columns: NDArray[np.float32], seed: int, resamples: int = RESAMPLES) -> NDArray[np.float64]:
    """Means of the columns over images drawn with replacement; the same images for the same seed.

    Args:
        columns: (N, F).
        seed: of the draws.
        resamples: R.

    Returns:
        (R, F).
    """
    rng, images = np.random.default_rng(seed), len(columns)
    at_once = max(1, MOST_COUNTS // images)
    found = []
    for start in range(0, resamples, at_once):
        draws = rng.integers(0, images, (min(at_once, resamples - start), images))
        counts = np.stack([np.bincount(draw, minlength=images) for draw in draws]).astype(np.float32)
        found.append(counts @ columns / images)
    return np.concatenate(found).astype(np.float64)


def interval(estimate: float, resampled: NDArray[np.float64]) -> Interval:
    """The estimate with its percentile interval (Efron 1979); resampled values that are NaN do not count."""
    low, high = np.nanquantile(resampled, (0.025, 0.975))
    return Interval(estimate, float(low), float(high))
