"""Measure the metrics of a requirement over seeds and images, with intervals.

Every metric is the mean of one score per seed and image (`Metric.scores`), so seeds and images are crossed as in a
comparison. For scores of 0 and 1 the interval is a binomial one, which also holds near 0 and 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ...statistics.effects import crossed_effect
from ...tasks import Classification, Metric, Rows, Task
from ...tasks.classification import calibration_error, correct
from ...training import Evaluation
from .requirement import COSTS, Quantity

Floats = NDArray[np.float64]
ECE_BINS = 15
WORST_CLASS = "worst_class"


@dataclass(frozen=True)
class Measured:
    """A number and its interval; for a cost, which is not a sample, all three are equal."""

    value: float
    low: float
    high: float
    seeds: int = 1
    images: int = 0

    @classmethod
    def cost(cls, value: float) -> Measured:
        return cls(value, value, value)


def quantities_of(task: Task) -> dict[str, Quantity]:
    """What can be required of a model for this task, by name; its primary metric comes first."""
    metrics = [*task.metrics.values()]
    if isinstance(task, Classification):
        metrics += [replace(task.metrics["nll"], name="loss", label="loss"), _CALIBRATION, _WORST_CLASS]
    return {quantity.name: quantity for quantity in [*map(Quantity.of, metrics), *COSTS.values()]}


def measure(quantity: Quantity, evaluations: Sequence[Evaluation], *, confidence: float = 0.95) -> Measured:
    """Measure a metric on evaluations of the same images.

    Args:
        quantity: one with a metric.
        evaluations: one per seed.
        confidence: of the interval, two-sided.
    """
    metric = quantity.metric
    assert metric is not None
    if quantity.name == WORST_CLASS:
        return _worst_class(evaluations, confidence)
    scores = np.stack([metric.scores(evaluation.rows) for evaluation in evaluations])
    if metric.bounds == (0.0, 1.0) and np.isin(scores, (0.0, 1.0)).all():
        return proportion(scores, confidence)
    effect = crossed_effect(scores, confidence=confidence, limit=math.inf)
    low, high = metric.bounds
    if effect.method == "no variation" and not math.isfinite(low + high):  # an unseen image may have any score
        return Measured(effect.mean, low, high, effect.seeds, effect.images)
    return Measured(effect.mean, max(effect.low, low), min(effect.high, high), effect.seeds, effect.images)


def proportion(correct: Floats, confidence: float = 0.95) -> Measured:
    """The mean of a (S, N) matrix of zeros and ones with an interval that also holds near 0 and 1.

    The crossed standard error says how many independent images the matrix is worth; the interval is the exact
    binomial one for that many (Korn & Graubard, Survey Methodology 24, 1998). With one seed it is the exact interval
    for the images.

    >>> proportion(np.ones((3, 100))).low.__round__(4)
    0.9638
    """
    from scipy.special import betaincinv, stdtrit  # late: most of this module's import time

    seeds, images = correct.shape
    mean, tail = float(correct.mean()), (1 - confidence) / 2
    size = float(images)
    if 0 < mean < 1 and seeds > 1 and images > 1 and np.ptp(correct) > 0:
        effect = crossed_effect(correct, confidence=confidence)
        if effect.standard_error > 0:
            ratio = stdtrit(images - 1, 1 - tail) / stdtrit(effect.degrees_of_freedom, 1 - tail)
            size = min(seeds * size, mean * (1 - mean) / effect.standard_error**2 * float(ratio) ** 2)
    right = mean * size
    low = float(betaincinv(right, size - right + 1, tail)) if right > 0 else 0.0
    high = float(betaincinv(right + 1, size - right, 1 - tail)) if right < size else 1.0
    return Measured(mean, min(low, mean), max(high, mean), seeds, images)


def as_json(found: Mapping[str, Measured]) -> dict[str, dict[str, float | None]]:
    """Plain values; an end that is not finite is null."""
    return {
        name: {
            "value": m.value,
            "low": m.low if math.isfinite(m.low) else None,
            "high": m.high if math.isfinite(m.high) else None,
        }
        for name, m in found.items()
    }


def _worst_class(evaluations: Sequence[Evaluation], confidence: float) -> Measured:
    """The lowest recall. Every class is tested at the full level: all must reach the number, so nothing is corrected."""
    labels = evaluations[0].labels
    right = np.stack([correct(evaluation.rows).astype(np.float64) for evaluation in evaluations])
    found = [proportion(right[:, labels == label], confidence) for label in np.unique(labels)]
    return Measured(*(min(getattr(m, end) for m in found) for end in ("value", "low", "high")), *right.shape)


def _overconfidence(rows: Rows) -> Floats:
    """Correctness minus confidence, signed by the gap of its bin: the mean is the expected calibration error."""
    confidence = rows["probabilities"].max(1).astype(np.float64)
    which = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    gap = correct(rows).astype(np.float64) - confidence
    return gap * np.sign(np.bincount(which, gap, ECE_BINS))[which]


def _lowest_recall(rows: Rows) -> float:
    return min(float(correct(rows)[rows["labels"] == label].mean()) for label in np.unique(rows["labels"]))


_CALIBRATION = Metric("ece", "calibration error", calibration_error, _overconfidence, higher_is_better=False)
_WORST_CLASS = Metric(  # of which `measure` needs no scores: all classes have to reach the number
    WORST_CLASS, "recall of the worst class", _lowest_recall, lambda rows: correct(rows).astype(np.float64)
)
