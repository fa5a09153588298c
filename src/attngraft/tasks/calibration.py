"""Temperature scaling: one number by which logits are divided, so that probabilities are as right as they say."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

LIMITS = (0.05, 20.0)  # images that are all predicted rightly would ask for a temperature of 0
HALVINGS = 60


def fit_temperature(probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """The temperature with the lowest negative log-likelihood, which is convex in its inverse.

    Args:
        probabilities: (N, K), by softmax at temperature 1: their logarithms are logits.
        labels: (N,) true classes.

    Returns:
        at least 0.05 and at most 20.

    Source: Guo et al., ICML 2017, arXiv:1706.04599.
    """
    logits = np.log(np.maximum(probabilities.astype(np.float64), np.finfo(np.float32).tiny))
    true = logits[np.arange(len(labels)), labels]
    low, high = map(math.log, LIMITS)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if _slope(logits, true, math.exp(-middle)) > 0:  # a lower inverse, so a higher temperature, is more likely
            low = middle
        else:
            high = middle
    return float(f"{math.exp((low + high) / 2):.6g}")


def _slope(logits: NDArray[np.float64], true: NDArray[np.float64], inverse: float) -> float:
    """The derivative of the negative log-likelihood by the inverse temperature."""
    scaled = np.exp(inverse * (logits - logits.max(1, keepdims=True)))
    expected = (scaled * logits).sum(1) / scaled.sum(1)
    return float((expected - true).mean())
