"""Test whether labels show a loss of accuracy, or label shift only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.05


@dataclass(frozen=True)
class LossTest:
    """Accuracy on labelled images against the accuracy that the same model is known to have on these classes.

    Attributes:
        observed: accuracy.
        expected: accuracy with the known accuracy of each class.
        p_value: of an accuracy this low where only the class proportions have changed.
    """

    observed: float
    expected: float
    p_value: float

    @property
    def is_lost(self) -> bool:
        return self.p_value < LEVEL

    def __str__(self) -> str:
        return f"top-1 {self.observed:.1%} where {self.expected:.1%} are expected for these classes (p = {self.p_value:.2g})"


def find_loss(
    right: NDArray[np.bool_], labels: NDArray[np.int64], known_right: NDArray[np.bool_], known_labels: NDArray[np.int64]
) -> LossTest:
    """Test whether the accuracy is lower than known, class by class.

    The accuracy of a class is taken as (right + 1) / (known + 2), so that few known images promise little; a class
    without any has the accuracy of all classes together, with the weight of one image.

    Args:
        right, labels: (n,) of the images in question.
        known_right, known_labels: (m,) of images that the model has not learned from.

    Returns:
        a one-sided test, with the uncertainty of both sides in its normal approximation.
    """
    from scipy.stats import norm

    count = len(labels)
    expected = variance = 0.0
    for label in np.unique(labels):
        mine = known_right[known_labels == label]
        accuracy = (mine.sum() + 1) / (len(mine) + 2) if len(mine) else float(known_right.mean())
        share = float((labels == label).mean())
        expected += share * accuracy
        variance += accuracy * (1 - accuracy) * (share / count + share**2 / max(1, len(mine)))
    observed = float(right.mean())
    spread = max(np.sqrt(variance), 1e-9)
    return LossTest(observed, float(expected), float(norm.cdf((observed - expected) / spread)))
