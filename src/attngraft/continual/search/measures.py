"""What a requirement asks for, measured over seeds and images, each number with its interval.

Every metric is written as the mean of one score per seed and image: rightness for the accuracies, the negative log
likelihood for the loss, and for macro F1 and the calibration error their linearisation at what was measured (the sum
of influences, whose mean is the metric itself). Seeds and images are then crossed as in a comparison.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...statistics.effects import crossed_effect
from ...training import Evaluation

Floats = NDArray[np.float64]
ECE_BINS = 15


@dataclass(frozen=True)
class Measured:
    """A number and its interval; for a cost, which is no sample, all three are equal.

    Attributes:
        value: the estimate.
        low: lower end.
        high: upper end.
        seeds: trained models that it rests on.
        images: images that it rests on.
    """

    value: float
    low: float
    high: float
    seeds: int = 1
    images: int = 0

    @classmethod
    def cost(cls, value: float) -> Measured:
        return cls(value, value, value)


def measure(metric: str, evaluations: Sequence[Evaluation], *, confidence: float = 0.95) -> Measured:
    """A metric of images over one evaluation per seed, all of the same images.

    Args:
        metric: top1, top5, worst_class, macro_f1, loss or ece.
        evaluations: one per seed.
        confidence: of the interval, two-sided.
    """
    if metric == "worst_class":
        return _worst_class(evaluations, confidence)
    scores = np.stack([_SCORES[metric](evaluation) for evaluation in evaluations])
    if metric in ("top1", "top5"):
        return proportion(scores, confidence)
    effect = crossed_effect(scores, confidence=confidence, limit=math.inf)
    top = math.inf if metric == "loss" else 1.0
    if metric == "loss" and effect.method == "no variation":  # an unseen image may have any loss
        return Measured(effect.mean, 0.0, top, effect.seeds, effect.images)
    return Measured(effect.mean, max(effect.low, 0.0), min(effect.high, top), effect.seeds, effect.images)


def measure_all(
    metrics: Sequence[str], evaluations: Sequence[Evaluation], *, confidence: float = 0.95
) -> dict[str, Measured]:
    """Several metrics of the same evaluations."""
    return {metric: measure(metric, evaluations, confidence=confidence) for metric in metrics}


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


def _worst_class(evaluations: Sequence[Evaluation], confidence: float) -> Measured:
    """The lowest recall. Every class is tested at the full level: all must reach the number, so nothing is corrected."""
    labels = evaluations[0].labels
    correct = np.stack([evaluation.correct.astype(np.float64) for evaluation in evaluations])
    found = [proportion(correct[:, labels == label], confidence) for label in np.unique(labels)]
    return Measured(
        min(m.value for m in found), min(m.low for m in found), min(m.high for m in found), *correct.shape
    )  # fmt: skip


def _right(evaluation: Evaluation) -> Floats:
    return evaluation.correct.astype(np.float64)


def _among_five(evaluation: Evaluation) -> Floats:
    best = np.argsort(-evaluation.probabilities, axis=1, kind="stable")[:, :5]
    return (best == evaluation.labels[:, None]).any(1).astype(np.float64)


def _surprise(evaluation: Evaluation) -> Floats:
    """Negative log likelihood of each image in nats."""
    true = evaluation.probabilities[np.arange(len(evaluation.labels)), evaluation.labels]
    return -np.log(np.clip(true.astype(np.float64), 1e-12, None))


def _overconfidence(evaluation: Evaluation) -> Floats:
    """Rightness minus confidence, signed by the gap of its bin: the mean is the expected calibration error."""
    confidence = evaluation.probabilities.max(1).astype(np.float64)
    which = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    gap = _right(evaluation) - confidence
    return gap * np.sign(np.bincount(which, gap, ECE_BINS))[which]


def _f1_influence(evaluation: Evaluation) -> Floats:
    """Macro F1, moved for each image by what it adds to the right and the wrong answers of its two classes."""
    labels, answers = evaluation.labels, evaluation.probabilities.argmax(1)
    scores, classes = np.zeros(len(labels)), np.unique(labels)
    for label in classes:
        mine, called = labels == label, answers == label
        right, either = (mine & called).astype(np.float64), mine.astype(np.float64) + called
        top, bottom = 2 * right.mean(), either.mean()
        scores += top / bottom + (2 * right - top) / bottom - top * (either - bottom) / bottom**2
    return scores / len(classes)


_SCORES = {
    "top1": _right,
    "top5": _among_five,
    "loss": _surprise,
    "ece": _overconfidence,
    "macro_f1": _f1_influence,
}


def as_json(found: Mapping[str, Measured]) -> dict[str, dict[str, float | None]]:
    """Plain values; an end that is not finite is null."""
    return {
        metric: {
            "value": m.value,
            "low": m.low if math.isfinite(m.low) else None,
            "high": m.high if math.isfinite(m.high) else None,
        }
        for metric, m in found.items()
    }
