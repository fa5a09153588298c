"""An estimate with its interval, and the interval of a ratio of two means."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval."""

    mean: float
    low: float
    high: float


def ratio(part: NDArray[np.float64], whole: NDArray[np.float64], confidence: float = 0.95) -> Interval | None:
    """The mean of a part over the mean of the whole, with Fieller's interval.

    The interval holds every ratio r for which the mean of ``part - r * whole`` may be 0. It is bounded only where the
    mean of the whole may not be 0.

    Args:
        part: (N,) values of independent units.
        whole: (N,) of the same units.
        confidence: of the interval.

    Returns:
        None where the mean of the whole may be 0, so that there is nothing to divide.

    Source: Fieller, Journal of the Royal Statistical Society B 16 (1954) 175-185.

    >>> ratio(np.array([1.0, 0.0, 1.0, 1.0]), np.array([2.0, 1.5, 2.0, 2.0])).mean
    0.4
    """
    from scipy.special import stdtrit  # late: most of this module's import time

    count = len(whole)
    if count < 2:
        return None
    t = float(stdtrit(count - 1, 0.5 + confidence / 2))
    (pp, pw), (_, ww) = (t**2 / count * np.cov(part, whole)).tolist()
    p, w = float(part.mean()), float(whole.mean())
    scale = w * w - ww
    if scale <= 0:
        return None
    middle = p * w - pw
    spread = math.sqrt(max(middle**2 - scale * (p * p - pp), 0.0))
    return Interval(p / w, min((middle - spread) / scale, p / w), max((middle + spread) / scale, p / w))
