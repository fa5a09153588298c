"""How a comparison is analysed: what is fixed before its runs are trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from ..statistics.effects import Effect, crossed_effect
from ..statistics.groups import by_group
from ..statistics.looks import Looks, parse_looks
from ..statistics.margins import MarginVerdict, margin_verdict
from ..statistics.resampling import cross_validated_effect
from ..tasks import Metric, Rows

ALPHA = 0.05
USUAL_MARGIN = 0.01  # of a metric in points, by which looks stop as futile where no margin is named


@dataclass(frozen=True)
class AnalysisPlan:
    """What is fixed before a comparison's runs are trained.

    Attributes:
        metric: what the variants are compared by.
        margin: a difference that matters, in the unit of the scores (0.01 for one point); None where none is named.
        looks: after how many seeds the comparison is looked at; None for one look at its end.
        look: with how many seeds the present look was planned, whatever number of them ended; None at any other time.
        groups: (N,) the group of each test image; None where every image is its own.
        tune: trials that every variant gets on validation images before the seeds are spent.
        robustness: whether corruptions of the test images are endpoints too.
        is_pilot: whether the runs are to plan with: margin and looks are fixed when the comparison goes on.
        trains: whether the runs are trained here, so that advice on training makes sense.
        folds, repeats: of cross-validation, where each "seed" is a fold; 0 folds for a test set of its own.
    """

    metric: Metric
    margin: float | None = None
    looks: Looks | None = None
    groups: NDArray[Any] | None = None
    tune: int = 0
    robustness: bool = False
    look: int | None = None
    is_pilot: bool = False
    trains: bool = True
    folds: int = 0
    repeats: int = 1

    @classmethod
    def of(
        cls,
        metric: Metric,
        *,
        margin: float | None = None,
        looks: Looks | str | Sequence[int] | None = None,
        groups: NDArray[Any] | None = None,
    ) -> AnalysisPlan:
        """The plan from what a user gives.

        Args:
            metric: what the variants are compared by.
            margin: in the unit that is shown, so 1.0 for one point.
            looks: planned, or as `parse_looks` reads them.
            groups: (N,) of the test images.

        Raises:
            ConfigError: a margin that is not above 0 or larger than any difference, or looks that do not grow.
        """
        span = metric.scale * (metric.bounds[1] - metric.bounds[0])
        if margin is not None and not 0 < margin < min(span, math.inf):
            most = f" and below {span:g}" if math.isfinite(span) else ""
            raise ConfigError(f"the margin is {margin:g} {metric.unit}".rstrip() + f": expected more than 0{most}.")
        chosen = looks if looks is None or isinstance(looks, Looks) else parse_looks(looks)
        return cls(metric, None if margin is None else margin / metric.scale, chosen, groups)

    def describe(self) -> dict[str, Any]:
        """What `comparison.json` keeps of it, fixed from the beginning; nothing where nothing is chosen."""
        found: dict[str, Any] = {}
        if self.margin is not None:
            found["margin"] = round(self.metric.scale * self.margin, 12)
        if self.looks is not None:
            found["looks"] = list(self.looks.seeds)
        if self.tune:
            found["tune"] = self.tune
        if self.is_pilot:
            found["is_pilot"] = True
        if self.folds:
            found |= {"folds": self.folds, "repeats": self.repeats}
        return found

    @property
    def fewest(self) -> int:
        """Runs without which there is no effect: from one fold nothing varies."""
        return 2 if self.folds else 1

    @property
    def limit(self) -> float:
        """The largest difference that is possible."""
        return self.metric.bounds[1] - self.metric.bounds[0]

    def scores(self, rows: Rows) -> NDArray[np.float64]:
        """(N,) scores of the test images, (C,) of their groups, or (1,) the value on a fold."""
        if self.folds:
            return np.array([self.metric.value(rows)])
        if self.groups is None:
            return self.metric.scores(rows)
        if self.metric.is_mean:
            return by_group(self.metric.scores(rows), self.groups)
        return self.metric.scores_of_groups(rows, self.groups)

    def alpha(self, comparisons: int) -> float:
        """The error rate of one of several primary comparisons: all of it for Holm, an equal part with looks."""
        return ALPHA / max(comparisons, 1) if self.looks else ALPHA

    def at(self, seeds: int) -> AnalysisPlan:
        """The plan at a look after so many seeds of every variant."""
        return replace(self, look=seeds if self.looks is not None and seeds in self.looks.seeds else None)

    def level(self, comparisons: int, alpha: float = ALPHA) -> float:
        """Two-sided level of a primary effect, before Holm: that of the look, where it is a planned one."""
        if self.looks is None or self.look is None:
            return alpha
        return self.looks.level_at(self.look, alpha / max(comparisons, 1))

    def effect(self, difference: NDArray[np.float64], comparisons: int = 1) -> Effect:
        """The effect with the interval that the plan gives it; with looks, the repeated one of this look."""
        return self.interval(difference, 1 - self.level(comparisons))

    def interval(
        self, difference: NDArray[np.float64], confidence: float = 1 - ALPHA, limit: float | None = None
    ) -> Effect:
        """The effect over seeds and images, or over folds.

        Args:
            difference: (S, N), or (folds, 1).
            confidence: of its interval.
            limit: the largest difference that is possible; that of the metric where not given.
        """
        limit = self.limit if limit is None else limit
        if self.folds:
            share = 1 / self.folds
            return cross_validated_effect(difference[:, 0], test_share=share, confidence=confidence, limit=limit)
        return crossed_effect(difference, confidence=confidence, limit=limit)

    def adjusted(self, p_values: Sequence[float], alpha: float = ALPHA) -> tuple[float, ...] | None:
        """P-values to be compared with alpha at a planned look; None where Holm's correction is due."""
        if self.look is None:
            return None
        factor = alpha / self.level(len(p_values), alpha)
        return tuple(min(1.0, factor * p) for p in p_values)

    def margin_verdict(self, difference: NDArray[np.float64], comparisons: int = 1) -> MarginVerdict | None:
        """What the difference says about the margin; None where none is named.

        Two one-sided tests at 5 % over all comparisons (and looks), so with the two-sided 90 % interval.
        """
        if self.margin is None:
            return None
        level = self.level(comparisons, 2 * ALPHA)
        if self.look is None:
            level /= max(comparisons, 1)
        effect = self.interval(difference, 1 - level)
        return margin_verdict(effect, self.margin, higher_is_better=self.metric.higher_is_better)

    @property
    def worth_finding(self) -> float | None:
        """The margin, or one point; None for other units."""
        return self.margin or (USUAL_MARGIN if self.metric.unit == "points" else None)
