"""Planned looks at a growing comparison: alpha spending and futility.

The levels are those of Lan and DeMets' spending function of the O'Brien-Fleming type, on the share of the seeds that
are trained. They are compared with the p-value of a t test, so that with few seeds hardly anything is settled early.
Not looking at a planned look, or stopping early for futility, can only lower the rate of false alarms.

Source: Lan and DeMets, Biometrika 70 (1983) 659-663; Jennison and Turnbull, Group Sequential Methods, 1999.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from ..errors import ConfigError
from .effects import Effect

USUAL_LOOKS = (5, 8, 12)
HOPELESS_T = 100.0  # a critical |t| above this is never reached in practice
FUTILE = 0.1  # conditional power below which going on is futile
GRID = 4001
REACH = 8.5  # standard deviations of the Brownian path that are integrated

Stop = Literal["settled", "futile", "all looks taken"]


@dataclass(frozen=True)
class Looks:
    """A plan of looks: after how many seeds a comparison is looked at.

    Raises:
        ConfigError: fewer than two seeds at the first look, or counts that do not grow.

    >>> [round(level, 4) for level in Looks((3, 5, 8, 12)).levels(0.05)]
    [0.0001, 0.0024, 0.0155, 0.0437]
    """

    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        grows = all(a < b for a, b in zip(self.seeds, self.seeds[1:], strict=False))
        if not self.seeds or self.seeds[0] < 2 or not grows:
            raise ConfigError(
                f"looks are {list(self.seeds)}: expected growing numbers of seeds from 2 on, for example 5,8,12."
            )

    @property
    def shares(self) -> tuple[float, ...]:
        """Of the information at each look."""
        return tuple(count / self.seeds[-1] for count in self.seeds)

    def levels(self, alpha: float) -> tuple[float, ...]:
        """Two-sided nominal level of each look, alpha over all of them."""
        return spending_levels(self.shares, alpha)

    def level_at(self, seeds: int, alpha: float) -> float:
        """The level with so many seeds.

        Raises:
            ConfigError: no look is planned there.
        """
        if seeds not in self.seeds:
            raise ConfigError(f"no look is planned at {seeds} seeds: expected one of {list(self.seeds)}.")
        return self.levels(alpha)[self.seeds.index(seeds)]

    def hopeless(self, alpha: float) -> tuple[int, ...]:
        """Looks that can only stop for futility: even one degree of freedom per seed asks for |t| above 100."""
        from scipy.special import stdtrit

        found = []
        for seeds, level in zip(self.seeds, self.levels(alpha), strict=True):
            if float(stdtrit(seeds - 1, 1 - level / 2)) > HOPELESS_T:
                found.append(seeds)
        return tuple(found)


@lru_cache(maxsize=256)
def spending_levels(shares: tuple[float, ...], alpha: float) -> tuple[float, ...]:
    """Two-sided nominal levels at shares of the information, the last of which is 1.

    The density of the path that has crossed no boundary is integrated from look to look (Armitage, McPherson and Rowe,
    JRSS A 132, 1969).
    """
    from scipy.special import ndtr, ndtri

    def spent(share: float) -> float:
        return float(2 * ndtr(ndtri(alpha / 2) / math.sqrt(share)))

    grid = np.linspace(-REACH, REACH, GRID)
    step, density, before, levels = grid[1] - grid[0], np.zeros(0), 0.0, []
    for share in shares:
        to_spend, width = spent(share) - (spent(before) if before else 0.0), math.sqrt(share - before)
        if not before:
            bound = -float(ndtri(to_spend / 2)) * math.sqrt(share)
            density = _normal(grid / width) / width
        else:
            density = np.convolve(density, _normal(grid / width) / width, mode="same") * step
            bound = _bound(grid, density, to_spend)
        levels.append(float(2 * ndtr(-bound / math.sqrt(share))))
        density = np.where(np.abs(grid) < bound, density, 0.0)
        before = share
    return tuple(levels)


def _bound(grid: np.ndarray, density: np.ndarray, to_spend: float) -> float:
    """Where the two tails of the density hold what is to be spent."""
    step = grid[1] - grid[0]
    upper = grid >= 0
    tail = np.cumsum((density[upper] * step)[::-1])[::-1] - density[upper] * step / 2
    return float(np.interp(-to_spend / 2, -tail, grid[upper]))


def _normal(z: np.ndarray) -> np.ndarray:
    return np.asarray(np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi))


def conditional_power(effect: Effect, looks: Looks, alpha: float, margin: float) -> float:
    """Chance that a true effect of the margin, either way, would still be found at the last look.

    Args:
        effect: seen at this look, by the crossed analysis.
        looks: the plan.
        alpha: over all looks.
        margin: the effect that is worth finding, in the unit of the scores.
    """
    from scipy.special import ndtr, ndtri

    share = effect.seeds / looks.seeds[-1]
    if effect.method != "crossed" or share >= 1:
        return 1.0 if share < 1 else 0.0
    final, critical = _error_with(effect, looks.seeds[-1]), -float(ndtri(looks.levels(alpha)[-1] / 2))
    z = math.copysign(-float(ndtri(max(effect.p_value, 1e-300) / 2)), effect.mean)
    path, rest = z * math.sqrt(share), math.sqrt(1 - share)

    def found(drift: float) -> float:
        ahead = path + drift * (1 - share)
        return float(ndtr((ahead - critical) / rest) + ndtr((-ahead - critical) / rest))

    return max(found(margin / final), found(-margin / final))


def _error_with(effect: Effect, seeds: int) -> float:
    """Standard error that the same noise would have with so many seeds."""
    variance = effect.seed_variance / seeds + effect.image_variance / effect.images
    return math.sqrt(variance + effect.residual_variance / (seeds * effect.images))


def parse_looks(text: str | Sequence[int]) -> Looks:
    """Read "5,8,12", or "auto" for that.

    Raises:
        ConfigError: not growing numbers from 2 on.
    """
    if not isinstance(text, str):
        return Looks(tuple(text))
    if text.strip() == "auto":
        return Looks(USUAL_LOOKS)
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() for part in parts):
        raise ConfigError(f"looks are '{text}': expected growing numbers of seeds from 2 on, for example 5,8,12.")
    return Looks(tuple(int(part) for part in parts))
