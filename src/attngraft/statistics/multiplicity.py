"""Corrections for multiple comparisons."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Correct p-values by Holm's step-down procedure, in the order given.

    Source: Holm, Scandinavian Journal of Statistics 6, 1979.

    >>> holm([0.01, 0.04, 0.03])
    (0.03, 0.06, 0.06)
    """
    p = np.asarray(p_values, dtype=np.float64)
    if not p.size:
        return ()
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return tuple(float(value) for value in adjusted)


def gated(p_values: Sequence[float], gates: Sequence[float]) -> tuple[float, ...]:
    """Correct a later family: Holm within it, and no p-value below that of the earlier result which opens it.

    Under the null hypothesis everywhere a later family is then entered only after a false alarm in the first one, so
    all families together raise a false alarm no more often than the first one alone.

    Args:
        p_values: of the family.
        gates: of each, the corrected p-value of the earlier result.

    Source: serial gatekeeping, Dmitrienko and Tamhane, Pharmaceutical Statistics 6 (2007) 171-180.

    >>> gated([0.01, 0.02], [0.001, 0.3])
    (0.02, 0.3)
    """
    return tuple(max(p, gate) for p, gate in zip(holm(p_values), gates, strict=True))
