"""Metrics of classification that are no means over images, with leave-one-out values.

Rows are `probabilities` (N, K) and `labels` (N,). All sets of classes are fixed by the labels of the whole test set.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from .contract import Array, Floats, Rows


def balanced_accuracy(rows: Rows) -> float:
    """Mean recall over the classes that occur."""
    return float(np.nanmean(recalls(rows)))


def recalls(rows: Rows) -> Floats:
    """(K,) recall of each class, NaN where it does not occur."""
    counts = _Counts(rows)
    return np.where(counts.present, counts.hits / np.maximum(counts.support, 1), np.nan)


def balanced_accuracy_without(rows: Rows) -> Floats:
    counts = _Counts(rows)
    own, right = counts.labels, counts.predicted == counts.labels
    with np.errstate(all="ignore"):
        change = (counts.hits[own] - right) / (counts.support[own] - 1) - counts.hits[own] / counts.support[own]
    return np.asarray(balanced_accuracy(rows) + change / counts.present.sum())


def macro_f1(rows: Rows) -> float:
    """Mean F1 over the classes that occur."""
    return float(np.nanmean(f1_scores(rows)))


def f1_scores(rows: Rows) -> Floats:
    """(K,) F1 of each class, NaN where it does not occur."""
    counts = _Counts(rows)
    return np.where(counts.present, _f1(counts.hits, counts.support, counts.guesses), np.nan)


def macro_f1_without(rows: Rows) -> Floats:
    counts = _Counts(rows)
    own, guessed = counts.labels, counts.predicted
    right = own == guessed
    before = _f1(counts.hits, counts.support, counts.guesses)
    of_own = _f1(counts.hits[own] - right, counts.support[own] - 1, counts.guesses[own] - right) - before[own]
    of_guess = _f1(counts.hits, counts.support, counts.guesses - 1)[guessed] - before[guessed]
    of_own = np.where(
        counts.support[own] > 1, of_own, 0.0
    )  # the last image of a class: its F1 stays, as its place does
    change = of_own + np.where(right | ~counts.present[guessed], 0.0, of_guess)
    return np.asarray(macro_f1(rows) + change / counts.present.sum())


def quadratic_kappa(rows: Rows) -> float:
    """Cohen's kappa with quadratic weights, for classes in an order (Cohen, Psychological Bulletin 70, 1968)."""
    counts = _Counts(rows)
    distance = np.square(counts.labels - counts.predicted).sum()
    return float(_kappa(distance, _expected(counts.support, counts.guesses), len(counts.labels)))


def quadratic_kappa_without(rows: Rows) -> Floats:
    counts = _Counts(rows)
    own, guessed, n = counts.labels, counts.predicted, len(counts.labels)
    between = np.square(np.subtract.outer(np.arange(counts.classes), np.arange(counts.classes)))
    apart = np.square(own - guessed)
    expected = _expected(counts.support, counts.guesses)
    expected = expected - (between @ counts.guesses)[own] - (between @ counts.support)[guessed] + apart
    return np.asarray(_kappa(apart.sum() - apart, expected, n - 1))


def auroc(rows: Rows) -> float:
    """Area under the ROC curve: of the second of two classes, else the mean over classes, each against the rest."""
    return float(np.mean([_Ranks(scores, positive).area for scores, positive in _one_against_rest(rows)]))


def auroc_without(rows: Rows) -> Floats:
    ranks = [_Ranks(scores, positive) for scores, positive in _one_against_rest(rows)]
    # a class whose only image is left out keeps its area, so that the set of classes stays
    areas = [np.where(np.isfinite(r.area_without()), r.area_without(), r.area) for r in ranks]
    return np.asarray(np.mean(areas, axis=0))


def aurocs(rows: Rows) -> Floats:
    """(K,) area of each class against the rest, NaN where one of both does not occur; (1,) of two classes."""
    probabilities, labels = rows["probabilities"], rows["labels"]
    columns = [1] if probabilities.shape[1] == 2 else range(probabilities.shape[1])
    found = np.full(len(columns), np.nan)
    for place, k in enumerate(columns):
        if 0 < (labels == k).sum() < len(labels):
            found[place] = _Ranks(probabilities[:, k], labels == k).area
    return found


def sensitivity_at(rows: Rows, specificity: float) -> float:
    """Highest sensitivity for the second class at a threshold with at least this specificity."""
    positives, negatives = _two_classes(rows)
    threshold = _threshold(np.sort(negatives)[::-1], specificity)
    return float((positives > threshold).mean())


def sensitivity_at_without(rows: Rows, specificity: float) -> Floats:
    positives, negatives = _two_classes(rows)
    falling = np.sort(negatives)[::-1]
    is_positive = rows["labels"] == 1
    found = positives > _threshold(falling, specificity)
    result = np.empty(len(is_positive))
    with np.errstate(all="ignore"):
        result[is_positive] = (found.sum() - found) / (len(positives) - 1)
    # leaving out one of equal negatives gives the same list, so two thresholds are all there are per distinct score
    after = {value: (positives > _threshold(_drop(falling, value), specificity)).mean() for value in np.unique(falling)}
    result[~is_positive] = [after[value] for value in negatives]
    return result


class _Counts:
    """What of the confusion matrix macro averages need, without the matrix."""

    def __init__(self, rows: Rows) -> None:
        self.labels = np.asarray(rows["labels"], dtype=np.int64)
        self.predicted = rows["probabilities"].argmax(1).astype(np.int64)
        self.classes = rows["probabilities"].shape[1]
        self.support = np.bincount(self.labels, minlength=self.classes).astype(float)
        self.guesses = np.bincount(self.predicted, minlength=self.classes).astype(float)
        right = self.labels[self.labels == self.predicted]
        self.hits = np.bincount(right, minlength=self.classes).astype(float)
        self.present = self.support > 0


def _f1(hits: Array, support: Array, guesses: Array) -> Floats:
    total = np.asarray(support + guesses, dtype=np.float64)
    return np.divide(2 * hits, total, out=np.zeros_like(total), where=total > 0)


def _expected(support: Array, guesses: Array) -> float:
    """Sum over pairs of classes of count * count * squared distance."""
    k = np.arange(len(support))
    n = support.sum()
    return float(
        n * (guesses * k**2).sum() + n * (support * k**2).sum() - 2 * (support * k).sum() * (guesses * k).sum()
    )


def _kappa(distance: Any, expected: Any, images: int) -> Array:
    with np.errstate(all="ignore"):
        kappa = 1 - images * distance / np.asarray(expected, dtype=np.float64)
    return np.where(np.isfinite(kappa), kappa, np.nan)


def _one_against_rest(rows: Rows) -> list[tuple[Array, NDArray[np.bool_]]]:
    probabilities, labels = rows["probabilities"], rows["labels"]
    if probabilities.shape[1] == 2:
        pairs = [(probabilities[:, 1], labels == 1)]
    else:
        pairs = [(probabilities[:, k], labels == k) for k in np.unique(labels)]
    if any(not 0 < positive.sum() < len(labels) for _, positive in pairs):
        raise ConfigError("the test images are all of one class: AUROC needs images of at least two.")
    return pairs


def _two_classes(rows: Rows) -> tuple[Array, Array]:
    """Scores of the second class for the images that have it, and for the others."""
    scores, positive = rows["probabilities"][:, 1], rows["labels"] == 1
    if not 0 < positive.sum() < len(positive):
        raise ConfigError("the test images are all of one class: sensitivity at a specificity needs both classes.")
    return scores[positive], scores[~positive]


def _threshold(falling: Array, specificity: float) -> float:
    """The lowest threshold that at most the allowed part of the negatives, in falling order, is above."""
    allowed = int((1 - specificity) * len(falling) + 1e-9)
    return float(falling[allowed]) if allowed < len(falling) else -np.inf


def _drop(falling: Array, value: float) -> Array:
    return np.delete(falling, np.searchsorted(-falling, -value))


class _Ranks:
    """Wins of every positive over the negatives, and the other way round; ties count half."""

    def __init__(self, scores: Array, positive: NDArray[np.bool_]) -> None:
        self.positive = positive
        of_positives, of_negatives = np.sort(scores[positive]), np.sort(scores[~positive])
        self.counts = (len(of_positives), len(of_negatives))
        self.wins = np.empty(len(scores))
        self.wins[positive] = _below(of_negatives, scores[positive])
        self.wins[~positive] = len(of_positives) - _below(of_positives, scores[~positive])
        self.total = self.wins[positive].sum()

    @property
    def area(self) -> float:
        return float(self.total / (self.counts[0] * self.counts[1]))

    def area_without(self) -> Floats:
        positives, negatives = self.counts
        pairs = np.where(self.positive, (positives - 1) * negatives, positives * (negatives - 1))
        with np.errstate(all="ignore"):
            return np.asarray((self.total - self.wins) / pairs)


def _below(ordered: Array, scores: Array) -> Floats:
    """How many of the ordered numbers are below each score; equal ones count half."""
    left, right = np.searchsorted(ordered, scores, "left"), np.searchsorted(ordered, scores, "right")
    return (left + right) / 2
