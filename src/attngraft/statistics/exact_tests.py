"""Exact paired tests of two models on the same images.

On n images the candidate ``gained`` some (right where the served model was wrong) and ``lost`` others (the other way
round). On the remaining ones both agree, and they say nothing about the difference. All p-values are one-sided and hold
for every n, however small; tails are summed, not subtracted from 1, so that they can be compared with levels of 1e-8.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError

Floats = NDArray[np.float64]

STEP = 0.1  # width of a cell of the discordance in standard errors of its estimate, at most twice this
REACH = 9.0  # standard deviations of the losses that are summed; what is outside counts as rejected
GAMMA_SHARE = 0.01  # part of a level that pays for the confidence limits of the discordance


def superiority_p(gained: int, lost: int) -> float:
    """McNemar's exact test that the candidate is better: P(at least so many gains | gains + losses, fair coin).

    Raises:
        ConfigError: a count is negative.

    >>> superiority_p(3, 0), superiority_p(1, 2), superiority_p(0, 0)
    (0.125, 0.875, 1.0)
    """
    _check(gained, lost, gained + lost)
    return float(_at_least(np.asarray(gained), np.asarray(gained + lost), np.asarray(0.5)))


def noninferiority_p(gained: int, lost: int, images: int, delta: float, *, gamma: float = 1e-6) -> float:
    """Exact unconditional p-value of H0: accuracy of the candidate - accuracy of the served model <= -delta.

    Outcomes are ordered by Tango's score statistic, and the unknown rate of disagreement is maximised over its exact
    confidence interval of level 1 - gamma, with gamma added (Berger and Boos). Only the edge of H0 is searched: the
    statistic grows with gains and falls with losses, so that any other point of H0 with the same disagreement rejects
    less. Between the points of the search the probability is bounded, not guessed (see `edge_bounds`), so the p-value is
    never too small; it is about 1 % above the true maximum at ordinary levels and less than 10 % above it at 1e-11.

    Args:
        gained: images that only the candidate gets right.
        lost: images that only the served model gets right.
        images: all images, n.
        delta: the margin as a fraction, in (0, 1): a loss of that much is to be ruled out.
        gamma: in (0, 1); the p-value is at least this. For a test at level alpha, take alpha / 100.

    Raises:
        ConfigError: counts that do not fit n, a delta or a gamma outside (0, 1).

    Source: Tango, Statistics in Medicine 17 (1998) 891-908; Berger and Boos, JASA 89 (1994) 1012-1016.

    >>> round(noninferiority_p(3, 3, 200, 0.05), 5)
    0.00179
    """
    _check(gained, lost, images)
    check_fraction(delta, "delta")
    check_fraction(gamma, "gamma")
    if images == 0:
        return 1.0
    first, last = cells_of_interval(gained + lost, images, delta, gamma)
    bounds = _bounds_at(gained, lost, images, delta, np.arange(first, last + 1))
    return float(min(1.0, bounds.max(initial=0.0) + gamma))


@lru_cache(maxsize=4096)  # served version and base are often the same
def is_noninferior(gained: int, lost: int, images: int, delta: float, alpha: float) -> bool:
    """Whether `noninferiority_p`, with gamma = alpha / 100, is at most alpha."""
    gamma = GAMMA_SHARE * alpha
    _check(gained, lost, images)
    if images:  # most that fail do so in the middle of the interval
        first, last = cells_of_interval(gained + lost, images, delta, gamma)
        middle = np.arange((first + last) // 2, (first + last) // 2 + 1)
        if first <= last and _bounds_at(gained, lost, images, delta, middle)[0] + gamma > alpha:
            return False
    return noninferiority_p(gained, lost, images, delta, gamma=gamma) <= alpha


def score(gained: NDArray[Any], lost: NDArray[Any], images: int, delta: float) -> Floats:
    """Tango's statistic: the distance of the difference from -delta in standard errors under H0.

    The rate of gains under H0 that fits best solves a quadratic equation. Broadcasts.
    """
    b, c, n = np.asarray(gained, np.float64), np.asarray(lost, np.float64), float(images)
    linear = b * (1 - delta) + c * (1 + delta) - 2 * n * delta
    rate = (linear + np.sqrt(linear**2 + 8 * n * b * delta * (1 - delta))) / (4 * n)
    return (b - c + n * delta) / np.sqrt(n * (2 * np.maximum(rate, 0.0) + delta * (1 - delta)))


# The search over the rate of disagreement psi. On the edge of H0 the rate of gains is q = (psi - delta) / 2. With
# q = (1 - delta) / 2 * sin(angle)^2 a step of STEP / sqrt(n) in the angle is about the same part of the standard error
# of q everywhere, so cells of equal angle, numbered from psi = delta on, serve all samples of n images.


def cells_of_interval(discordant: NDArray[Any] | int, images: int, delta: float, gamma: float) -> Any:
    """First and last cell of the Clopper-Pearson interval of the disagreement; last < first where none is in H0."""
    from scipy.special import betainccinv, betaincinv

    m = np.asarray(discordant, np.float64)
    low = np.where(m > 0, betaincinv(np.maximum(m, 1), images - m + 1, gamma / 2), 0.0)
    high = np.where(m < images, betainccinv(m + 1, np.maximum(images - m, 1), gamma / 2), 1.0)
    step = STEP / math.sqrt(images)
    first = np.floor(_angle(low, delta) / step).astype(np.int64)
    last = np.where(high < delta, -1, np.ceil(_angle(high, delta) / step).astype(np.int64) - 1)
    last = np.minimum(np.where(high < delta, -1, np.maximum(last, 0)), math.ceil(math.pi / 2 / step) - 1)
    first = np.minimum(first, np.maximum(last, 0))
    return first[()], last[()]


def edge_bounds(thresholds: Floats, cells: NDArray[np.int64], images: int, delta: float) -> Floats:
    """Upper bounds of P(score >= threshold) over each cell of the edge of H0, one threshold a cell.

    The logarithm of the probability of an outcome is concave in q, so it lies below its tangent in the middle of the
    cell. Along the tangent the outcomes are a trinomial sample again, with other rates and a factor Z^n, and a sum of
    exponentials is largest at an end of the cell: two tails a cell bound all that is between.
    """
    step = STEP / math.sqrt(images)
    edges = [(1 - delta) / 2 * np.sin(np.minimum((cells + end) * step, math.pi / 2)) ** 2 for end in (0, 1)]
    middle, half = (edges[0] + edges[1]) / 2, (edges[1] - edges[0]) / 2
    agree = 1 - 2 * middle - delta
    ends = []
    for shift in (-half, half):
        gain, loss = middle * np.exp(shift / middle), (middle + delta) * np.exp(shift / (middle + delta))
        tie = agree * np.exp(-2 * shift / agree)
        total = gain + loss + tie
        tails = tail(thresholds, gain / total, loss / total, images, delta)
        ends.append(tails * np.exp(images * np.log(total)))
    return np.maximum(*ends)


def _bounds_at(gained: int, lost: int, images: int, delta: float, cells: NDArray[np.int64]) -> Floats:
    """`edge_bounds` of outcomes at least as extreme as this one; no cells where no point of H0 is left."""
    observed = float(score(np.asarray(gained), np.asarray(lost), images, delta))
    return edge_bounds(np.full(len(cells), observed), cells, images, delta) if len(cells) else np.zeros(0)


def tail(thresholds: Floats, gain: Floats, loss: Floats, images: int, delta: float) -> Floats:
    """P(score >= threshold) for trinomial samples with the given rates, (J,) each; outcomes left out count as above."""
    from scipy.special import bdtr, bdtrc

    center, reach = images * loss, REACH * np.sqrt(images * loss * (1 - loss)) + 20
    lowest = np.maximum(np.floor(center - reach), 0)
    highest = np.minimum(np.ceil(center + reach), images)
    losses: Floats = lowest[:, None] + np.arange(int((highest - lowest).max()) + 1)
    inside = losses <= highest[:, None]
    losses = np.minimum(losses, highest[:, None])
    least = _least_gained(thresholds, losses, images, delta)
    share = np.minimum(gain / (1 - loss), 1.0)[:, None]
    summed = _binomial(losses, images, loss[:, None]) * _at_least(least, images - losses, share) * inside
    left_out = np.where(lowest > 0, bdtr(lowest - 1, images, loss), 0.0) + bdtrc(highest, images, loss)
    return summed.sum(1) + left_out


def _least_gained(thresholds: Floats, losses: Floats, images: int, delta: float) -> Floats:
    """(J,) thresholds, (J, C) losses -> the fewest gains that reach the threshold, infinite where none do."""
    reached = thresholds[:, None] - 1e-12 * (1 + np.abs(thresholds[:, None]))  # the observed outcome itself counts
    low, high = np.zeros_like(losses), images - losses + 1
    for _ in range(math.ceil(math.log2(images + 2))):
        middle = np.floor((low + high) / 2)
        enough = score(middle, losses, images, delta) >= reached
        high = np.where(enough, middle, high)
        low = np.where(enough | (low >= high), low, middle + 1)
    high = np.where(high > images - losses, np.inf, high)
    # more losses never need fewer gains; were it not so in the last digit, the larger region is the safe one
    return np.minimum.accumulate(high[:, ::-1], axis=1)[:, ::-1]


def _at_least(successes: NDArray[Any], trials: NDArray[Any], rate: NDArray[Any]) -> Floats:
    """P(Binomial(trials, rate) >= successes), accurate in the tail."""
    from scipy.special import betainc

    possible = (successes > 0) & (successes <= trials)
    k = np.where(possible, successes, 1.0)
    value = betainc(k, np.where(possible, trials - k + 1, 1.0), rate)
    return np.where(successes <= 0, 1.0, np.where(possible, value, 0.0))


def _binomial(successes: Floats, trials: int, rate: Floats) -> Floats:
    from scipy.special import gammaln, xlog1py, xlogy

    ways = gammaln(trials + 1) - gammaln(successes + 1) - gammaln(trials - successes + 1)
    return np.exp(ways + xlogy(successes, rate) + xlog1py(trials - successes, -rate))


def _angle(psi: Floats, delta: float) -> Floats:
    return np.arcsin(np.sqrt(np.clip((psi - delta) / (1 - delta), 0.0, 1.0)))


def _check(gained: int, lost: int, images: int) -> None:
    if min(gained, lost) < 0 or gained + lost > images:
        raise ConfigError(f"{gained} gained and {lost} lost of {images} images: expected counts that fit the images.")


def check_fraction(value: float, name: str) -> None:
    """Refuse what is not strictly between 0 and 1."""
    if not 0 < value < 1:
        raise ConfigError(f"{name} is {value}: expected a number between 0 and 1, for example 0.02.")
