"""Kolmogorov-Smirnov distances on a fixed grid, fast enough to simulate thousands of windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CUTS = 128
# Predictions of one model differ by about 1e-6 between machines; where many are equal (0, 1), that is not a shift.
_DECIMALS = 5
_OUTSIDE = 1e-4
_WHOLE = 30_000

Curves = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Grid:
    """Where the distribution functions are compared: at most 128 cuts per column, at quantiles of the reference.

    Cuts lie between two values that occur, and one lies below and one above all of them, so a value that many images
    share is never cut in two. A distance on the grid is at most the distance everywhere, and less by no more
    than 1/126.

    Attributes:
        cuts: (J, 128) float64, ascending; filled up with infinity.
    """

    cuts: NDArray[np.float64]

    @staticmethod
    def of(columns: NDArray[np.float64]) -> Grid:
        """The grid for a reference of (N, J) values."""
        cuts = np.full((columns.shape[1], CUTS), np.inf)
        for j, column in enumerate(np.round(columns, _DECIMALS).T):
            found = _cuts(np.sort(column))
            cuts[j, : len(found)] = found
        return Grid(cuts)

    def codes(self, columns: NDArray[np.float64]) -> NDArray[np.int64]:
        """(N, J) values -> (N, J) cells, numbered through all columns."""
        cells = [np.searchsorted(cuts, column) for cuts, column in zip(self.cuts, columns.T, strict=True)]
        return np.stack(cells, axis=1) + np.arange(len(cells)) * (CUTS + 1)

    def curves(self, codes: NDArray[np.int64], weights: NDArray[np.float64] | None = None) -> Curves:
        """Distribution function of every column at its cuts: (N, J) cells -> (J, 128) float32.

        Args:
            codes: from `codes`.
            weights: (N,) of the images; equal by default.
        """
        spread = None if weights is None else np.repeat(weights, codes.shape[1])
        counts = np.bincount(codes.reshape(-1), weights=spread, minlength=len(self.cuts) * (CUTS + 1))
        sums = counts.reshape(len(self.cuts), CUTS + 1).cumsum(axis=1)
        return (sums[:, :-1] / sums[:, -1:]).astype(np.float32)


def distances(one: Curves, other: Curves) -> NDArray[np.float32]:
    """Kolmogorov-Smirnov distance of each column: (..., J, 128) -> (..., J)."""
    return np.abs(one - other).max(axis=-1)


class Stack:
    """Curves of many samples, laid out for comparison with one reference after the other.

    They are kept as integers in units of 1/30,000, so that the compared rows stay in the processor's cache.

    Args:
        curves: of B samples, each (J, 128).
    """

    def __init__(self, curves: Sequence[Curves]) -> None:
        self._values = np.stack([_whole(curve) for curve in curves], axis=-1)  # (J, 128, B)
        self._gap = np.empty(self._values.shape[1:], dtype=np.int16)

    def largest(self, reference: Curves) -> NDArray[np.float64]:
        """The largest distance of all columns, for each sample: (J, 128) -> (B,)."""
        found = np.zeros(self._values.shape[-1], dtype=np.int16)
        for values, curve in zip(self._values, _whole(reference), strict=True):
            np.subtract(values, curve[:, None], out=self._gap)
            np.abs(self._gap, out=self._gap)
            np.maximum(found, self._gap.max(axis=0), out=found)
        return found / _WHOLE


def _whole(curves: Curves) -> NDArray[np.int16]:
    return np.rint(curves * _WHOLE).astype(np.int16)


def p_values(distance: NDArray[np.floating], images: float, reference: float) -> NDArray[np.float64]:
    """Chance of a distance at least as large between two samples of these sizes from one distribution.

    The Kolmogorov-Smirnov distribution for the effective size m n / (m + n); for columns with ties it is an upper
    bound.
    """
    from scipy.stats import kstwo

    size = max(1, round(images * reference / (images + reference)))
    return np.asarray(kstwo.sf(distance, size), dtype=np.float64)


def _cuts(ordered: NDArray[np.float64]) -> NDArray[np.float64]:
    """At most CUTS places between the values of a sorted column."""
    distinct = np.unique(ordered)
    between = (distinct[1:] + distinct[:-1]) / 2
    if len(between) > CUTS - 2:
        ranks = np.round(np.arange(1, CUTS - 1) * len(ordered) / (CUTS - 1)).astype(np.int64)
        above = np.searchsorted(distinct, ordered[ranks - 1])
        between = between[np.unique(np.minimum(above, len(between) - 1))]
    return np.concatenate([[distinct[0] - _OUTSIDE], between, [distinct[-1] + _OUTSIDE]])
