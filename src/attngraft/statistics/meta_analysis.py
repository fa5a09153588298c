"""One effect from several data sets.

Data sets are a sample too: the mean effect over them has a variance between data sets (Paule and Mandel), and its
interval is that of Hartung, Knapp, Sidik and Jonkman, never narrower than without their factor.

Source: Paule and Mandel, Journal of Research of the NBS 87 (1982) 377-385; Hartung and Knapp, Statistics in Medicine 20
(2001) 3875-3889; the bound on the factor: Roever, Knapp and Friede, BMC Medical Research Methodology 15 (2015) 99.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError

Floats = NDArray[np.float64]
FEWEST = 3  # data sets from which on their spread can be estimated


@dataclass(frozen=True)
class Pooled:
    """The mean effect over data sets.

    Attributes:
        mean, low, high: the effect with its interval; of a new data set's *mean*, not of a new data set.
        standard_error: of the mean.
        degrees_of_freedom: data sets - 1.
        p_value: two-sided, of no mean effect.
        between_sd: standard deviation of the true effects between data sets.
        weights: of the data sets, summing to 1.
        confidence: of the interval.
        prediction_low, prediction_high: where the true effect on a further data set is expected.
    """

    mean: float
    low: float
    high: float
    standard_error: float
    degrees_of_freedom: int
    p_value: float
    between_sd: float
    weights: tuple[float, ...]
    confidence: float
    prediction_low: float
    prediction_high: float


def pooled_effect(effects: Sequence[float], errors: Sequence[float], *, confidence: float = 0.95) -> Pooled:
    """The mean over data sets of an effect.

    Args:
        effects: of each data set.
        errors: standard error of each, at least 0.
        confidence: of the interval.

    Raises:
        ConfigError: fewer than three data sets, whose spread cannot be estimated, or values that do not fit.

    >>> pooled = pooled_effect([0.01, 0.03, 0.02], [0.01, 0.01, 0.01])
    >>> round(pooled.mean, 4), round(pooled.between_sd, 4), round(pooled.high - pooled.mean, 4)
    (0.02, 0.0, 0.0248)
    """
    y, variance = np.asarray(effects, dtype=np.float64), np.square(np.asarray(errors, dtype=np.float64))
    if len(y) < FEWEST:
        raise ConfigError(f"got {len(y)} data sets: expected at least {FEWEST}, with fewer their spread is unknown.")
    if y.shape != variance.shape or not (np.isfinite(y).all() and np.isfinite(variance).all()):
        raise ConfigError("effects and standard errors differ in number or are not finite: give one of each per set.")
    from scipy.special import stdtr, stdtrit

    variance = np.maximum(variance, _smallest(variance))
    between = paule_mandel(y, variance)
    weights = 1 / (variance + between)
    total = weights.sum()
    mean = float((weights * y).sum() / total)
    df = len(y) - 1
    factor = max(float((weights * (y - mean) ** 2).sum()) / df, 1.0)
    error = math.sqrt(factor / total)
    half = float(stdtrit(df, 0.5 + confidence / 2)) * error
    reach = float(stdtrit(max(df - 1, 1), 0.5 + confidence / 2)) * math.sqrt(between + error**2)
    p_value = float(2 * stdtr(df, -abs(mean) / error))
    return Pooled(
        mean, mean - half, mean + half, error, df, min(p_value, 1.0), math.sqrt(between),
        tuple(float(w) for w in weights / total), confidence, mean - reach, mean + reach,
    )  # fmt: skip


def paule_mandel(effects: Floats, variances: Floats) -> float:
    """Variance between data sets at which the weighted squares sum to their expectation; 0 where they are below it."""
    df = len(effects) - 1

    def excess(between: float) -> float:
        weights = 1 / (variances + between)
        mean = (weights * effects).sum() / weights.sum()
        return float((weights * (effects - mean) ** 2).sum()) - df

    if excess(0.0) <= 0:
        return 0.0
    low, high = 0.0, float(np.var(effects, ddof=1)) + float(variances.max())
    while excess(high) > 0:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return high


def _smallest(variances: Floats) -> float:
    """A data set on which nothing varied is as sure as the surest other one, and not infinitely sure."""
    positive = variances[variances > 0]
    return float(positive.min()) if positive.size else 1e-12
