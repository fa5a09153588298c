"""The interval of an accuracy over seeds and images, which also holds near 0 and 1."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .effects import crossed_effect
from .groups import by_group, group_index
from .interval import Interval

Floats = NDArray[np.float64]


def proportion_interval(correct: Floats, groups: ArrayLike | None = None, confidence: float = 0.95) -> Interval:
    """The mean of zeros and ones with an interval that also holds near 0 and 1.

    The crossed standard error says how many independent images the matrix is worth; the interval is the exact
    binomial one for that many. With one seed and no groups it is the exact interval for the images.

    Where images come in groups, whole groups that fail may not have been drawn, and the variance that is seen is too
    small. So it is computed with two more groups, one all right and one all wrong, but the matrix is never worth less
    than one image a group for that reason alone.

    Args:
        correct: (S, N) of zeros and ones.
        groups: (N,) of images that belong together; None where every image stands for itself.
        confidence: of the interval, two-sided.

    Source: Korn and Graubard, Survey Methodology 24 (1998) 193-201; the two more groups as in `effects`.

    >>> round(proportion_interval(np.ones((3, 100))).low, 4)
    0.9638
    """
    from scipy.special import betaincinv  # late: most of this module's import time

    mean, tail = float(correct.mean()), (1 - confidence) / 2
    size = _worth(correct, groups, confidence)
    right = mean * size
    low = float(betaincinv(right, size - right + 1, tail)) if right > 0 else 0.0
    high = float(betaincinv(right + 1, size - right, 1 - tail)) if right < size else 1.0
    return Interval(mean, min(low, mean), max(high, mean))


def _worth(correct: Floats, groups: ArrayLike | None, confidence: float) -> float:
    """How many independent images the matrix is worth."""
    seeds, images = correct.shape
    if groups is None:
        seen = _size(correct, correct, confidence) if seeds > 1 else None
        return float(images) if seen is None else min(seeds * images, seen)
    sizes = np.bincount(group_index(groups)).astype(np.float64)
    least = float(sizes.sum() ** 2 / np.square(sizes).sum())  # the number of groups, where they are of one size
    units = by_group(correct, groups)
    seen = _size(correct, units, confidence)
    if seen is None:
        return least
    wider = _size(correct, np.concatenate([units, np.tile([0.0, 1.0], (seeds, 1))], axis=1), confidence) or least
    return min(seeds * images, seen, max(wider, least))


def _size(correct: Floats, units: Floats, confidence: float) -> float | None:
    """The images that an interval of this standard error is worth; None where nothing varies."""
    from scipy.special import stdtrit

    mean = float(correct.mean())
    if not 0 < mean < 1 or units.shape[1] < 2 or np.ptp(units) == 0:
        return None
    effect = crossed_effect(units, confidence=confidence, limit=math.inf)
    if effect.standard_error <= 0:
        return None
    tail = (1 + confidence) / 2
    ratio = float(stdtrit(correct.shape[1] - 1, tail) / stdtrit(effect.degrees_of_freedom, tail))
    return mean * (1 - mean) / effect.standard_error**2 * ratio**2
