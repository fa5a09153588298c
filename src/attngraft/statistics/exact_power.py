"""Power of the exact paired tests, and sample sizes.

Powers are exact sums over the outcomes that the tests accept. Above MOST_EXACT images the normal approximation with a
small supplement takes over, in which the third digit is not to be trusted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from .exact_tests import (
    GAMMA_SHARE,
    cells_of_interval,
    check_fraction,
    edge_bounds,
    score,
)

Floats = NDArray[np.float64]

MOST_EXACT = 20_000
MOST_IMAGES = 10_000_000  # more than this are no practical advice
SUPPLEMENT = 1.02  # on what the normal approximation needs
FEWEST = 10
SPREAD = 6.0  # standard deviations of an outcome that are looked at; the rest counts as refused
SEARCHES = 14
CLOSE = 0.02  # relative, of a level


def power_superiority(images: int, psi: float, alpha: float, difference: float) -> float:
    """P(`superiority_p` <= alpha) on n images.

    Args:
        images: n.
        psi: rate of disagreement of the two models.
        alpha: level of the test.
        difference: true difference in accuracy, at most psi in size.

    Raises:
        ConfigError: rates or levels that are impossible.
    """
    _check_rates(psi, alpha, difference)
    if images > MOST_EXACT:
        return _approximate_power(images, psi, difference, alpha, null_variance=psi, margin=0.0)
    from scipy.stats import binom

    discordant = np.arange(images + 1)
    fewest = binom.isf(alpha, discordant, 0.5) + 1  # the first number of gains whose tail is at most alpha
    passed = binom.sf(fewest - 1, discordant, (1 + difference / psi) / 2)
    return float((binom.pmf(discordant, images, psi) * passed).sum())


def power_noninferiority(images: int, psi: float, delta: float, alpha: float, difference: float = 0.0) -> float:
    """P(`is_noninferior` at alpha) on n images: a lower bound, exact but for outcomes rarer than 1e-8.

    Args:
        images: n.
        psi: rate of disagreement of the two models.
        delta: the margin as a fraction.
        alpha: level of the test.
        difference: true difference in accuracy, at most psi in size.

    Raises:
        ConfigError: rates or levels that are impossible.
    """
    _check_rates(psi, alpha, difference)
    check_fraction(delta, "delta")
    if images > MOST_EXACT:
        variance = max(psi - delta**2, delta * (1 - delta))
        return _approximate_power(images, psi, difference, alpha, null_variance=variance, margin=delta)
    if images < 1:
        return 0.0
    gain, loss = (psi + difference) / 2, (psi - difference) / 2
    gains, losses = _window(images, gain)[:, None], _window(images, loss)[None, :]
    possible = gains + losses <= images
    needed = _least_score(np.where(possible, gains + losses, 0), images, delta, alpha)
    accepted = possible & (score(gains, np.where(possible, losses, 0), images, delta) >= needed)
    return float(_trinomial(gains, losses, images, gain, loss)[accepted].sum())


def images_needed(psi: float, delta: float, alpha: float, power: float, difference: float = 0.0) -> int | None:
    """Images with which `is_noninferior` has at least this power; None above ten million or where none suffice.

    The number returned has the power; the smallest number that has it is at most 2 % lower.
    """
    _check_rates(psi, alpha, difference)
    check_fraction(power, "power")
    if difference <= -delta:
        return None
    z = _normal_sum(alpha, power, max(psi - delta**2, delta * (1 - delta)), psi - difference**2)
    start = (z / (delta + difference)) ** 2
    return _search(lambda n: power_noninferiority(n, psi, delta, alpha, difference), start, power)


def images_needed_superiority(psi: float, alpha: float, power: float, difference: float) -> int | None:
    """Images with which `superiority_p` is at most alpha with at least this power; None as in `images_needed`."""
    _check_rates(psi, alpha, difference)
    check_fraction(power, "power")
    if difference <= 0:
        return None
    start = (_normal_sum(alpha, power, psi, psi - difference**2) / difference) ** 2
    return _search(lambda n: power_superiority(n, psi, alpha, difference), start, power)


def _least_score(discordant: NDArray[Any], images: int, delta: float, alpha: float) -> Floats:
    """The score from which on an outcome with so many discordant images is accepted, as `noninferiority_p` decides."""
    counts = np.arange(int(discordant.min()), int(discordant.max()) + 1)
    first, last = cells_of_interval(counts, images, delta, GAMMA_SHARE * alpha)
    offset = int(first.min())
    critical = _critical_scores(offset, int(last.max()), images, delta, alpha)
    worst = [
        critical[start : stop + 1].max(initial=-np.inf)
        for start, stop in zip(first - offset, last - offset, strict=True)
    ]
    return np.asarray(worst)[discordant - counts[0]]


@lru_cache(maxsize=256)
def _critical_scores(first: int, last: int, images: int, delta: float, alpha: float) -> Floats:
    """For each cell a score, hardly above the smallest, whose bound is at most alpha less gamma; infinite where none is."""
    cells = np.arange(first, max(last, first) + 1)
    level = (1 - GAMMA_SHARE) * alpha
    good, bad = np.full(len(cells), np.inf), np.zeros(len(cells))
    trial, open_ = np.full(len(cells), _z(alpha)), np.arange(len(cells))
    for _ in range(SEARCHES):
        bound = edge_bounds(trial[open_], cells[open_], images, delta)
        passed = bound <= level
        good[open_] = np.where(passed, trial[open_], good[open_])
        bad[open_] = np.where(passed, bad[open_], trial[open_])
        # Newton's step on the logarithm, whose slope in a normal tail is -(t + 1 / t)
        with np.errstate(divide="ignore"):
            step = (np.log(bound) - math.log(level * (1 - CLOSE / 2))) / (trial[open_] + 1 / trial[open_])
        far = ~passed | (bound < level * (1 - CLOSE))
        trial[open_] = trial[open_] + np.clip(step, -1.0, 1.0)
        outside = (trial <= bad) | (trial >= good)
        trial = np.where(outside, np.where(np.isinf(good), bad + 1, (good + bad) / 2), trial)
        open_ = open_[far]
        if not len(open_):
            break
    return good


def _search(power_of: Callable[[int], float], start: float, power: float) -> int | None:
    """A number of images near the smallest that has the power, from a first guess."""
    if start > MOST_IMAGES:
        return None
    low, high, trial = 0, 0, max(math.ceil(start), FEWEST)
    while not high or high - low > max(0.02 * high, 1):
        if power_of(trial) >= power:
            high = trial
        else:
            low = trial
        if low >= MOST_IMAGES:
            return None
        trial = (low + high) // 2 if low and high else math.ceil(1.1 * low) if low else math.floor(0.9 * high)
        if trial < 1:
            break
    return high


def _approximate_power(
    images: int, psi: float, difference: float, alpha: float, *, null_variance: float, margin: float
) -> float:
    from scipy.special import ndtr

    root = math.sqrt(images / SUPPLEMENT)
    spread = math.sqrt(max(psi - difference**2, 1e-12))
    return float(ndtr(((margin + difference) * root - _z(alpha) * math.sqrt(null_variance)) / spread))


def _normal_sum(alpha: float, power: float, null_variance: float, variance: float) -> float:
    return _z(alpha) * math.sqrt(null_variance) + _z(1 - power) * math.sqrt(max(variance, 0.0))


def _z(tail: float) -> float:
    from scipy.special import ndtri

    return float(-ndtri(tail))


def _window(images: int, rate: float) -> NDArray[np.int64]:
    reach = SPREAD * math.sqrt(images * rate * (1 - rate)) + 10
    return np.arange(max(math.floor(images * rate - reach), 0), min(math.ceil(images * rate + reach), images) + 1)


def _trinomial(gains: NDArray[Any], losses: NDArray[Any], images: int, gain: float, loss: float) -> Floats:
    from scipy.special import gammaln, xlogy

    ties = np.maximum(images - gains - losses, 0)
    ways = gammaln(images + 1) - gammaln(gains + 1) - gammaln(losses + 1) - gammaln(ties + 1)
    return np.exp(ways + xlogy(gains, gain) + xlogy(losses, loss) + xlogy(ties, max(1 - gain - loss, 0.0)))


def _check_rates(psi: float, alpha: float, difference: float) -> None:
    check_fraction(alpha, "alpha")
    if not (0 < psi <= 1 and abs(difference) <= psi):
        raise ConfigError(
            f"got a disagreement of {psi} and a difference of {difference}: expected 0 < disagreement <= 1 and a "
            "difference of at most its size."
        )
