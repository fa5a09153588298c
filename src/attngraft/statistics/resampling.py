"""Effects over resampled training and test sets: repeated cross-validation."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from ..errors import ConfigError
from .effects import Effect


def cross_validated_effect(
    differences: ArrayLike, *, test_share: float, confidence: float = 0.95, limit: float = math.inf
) -> Effect:
    """The mean difference over folds, with Nadeau and Bengio's correction for training sets that overlap.

    The variance of the mean of J folds is ``(1 / J + n_test / n_train)`` times that between folds, as the folds share
    most of their training images.

    Args:
        differences: (J,) mean difference on each fold, over all repetitions.
        test_share: part of the images that a fold tests, n_test / (n_test + n_train).
        confidence: of the interval.
        limit: the interval is cut at plus and minus this.

    Raises:
        ConfigError: fewer than two folds.

    Source: Nadeau and Bengio, Machine Learning 52 (2003) 239-281.
    """
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 1 or len(values) < 2 or not 0 < test_share < 1:
        raise ConfigError(f"got {values.size} folds: expected at least two, each of a part of the images.")
    from scipy.special import stdtr, stdtrit

    folds, mean = len(values), float(values.mean())
    variance = float(values.var(ddof=1))
    if variance == 0:
        return Effect(
            mean, -limit, limit, 0.0, folds - 1.0, 1.0, folds, folds, 0.0, 0.0, 0.0, confidence, True, "no variation"
        )
    error = math.sqrt((1 / folds + test_share / (1 - test_share)) * variance)
    half = float(stdtrit(folds - 1, 0.5 + confidence / 2)) * error
    p_value = min(float(2 * stdtr(folds - 1, -abs(mean) / error)), 1.0)
    return Effect(
        mean, max(mean - half, -limit), min(mean + half, limit), error, folds - 1.0, p_value, folds, folds,
        variance, 0.0, 0.0, confidence, True, "folds",
    )  # fmt: skip
