"""Estimate class proportions, to see whether label shift alone explains a window."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_STEPS = 100
_LEAST = 1e-12


def class_proportions(probabilities: NDArray[np.float32], usual: NDArray[np.float64]) -> NDArray[np.float64]:
    """Maximum likelihood estimate of the class proportions, if only these have changed.

    Args:
        probabilities: (n, K), the model's predictions.
        usual: (K,) proportions that the predictions assume.

    Returns:
        (K,) float64, sums to 1.

    Source: expectation maximisation of Saerens, Latinne and Decaestecker, Neural Computation 14(1), 2002.
    """
    relative = probabilities / np.maximum(usual, _LEAST)
    found = usual / usual.sum()
    for _ in range(_STEPS):
        joint = relative * found
        found = (joint / np.maximum(joint.sum(axis=1, keepdims=True), _LEAST)).mean(axis=0)
        found /= found.sum()
    return found


def image_weights(
    probabilities: NDArray[np.float32], usual: NDArray[np.float64], wanted: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Importance weight of each image for the wanted class proportions: (N, K) -> (N,)."""
    return np.asarray(probabilities @ (wanted / np.maximum(usual, _LEAST)), dtype=np.float64)


def effective_size(weights: NDArray[np.float64]) -> float:
    """Effective sample size of a weighted mean (Kish, Survey Sampling, 1965)."""
    total = float(weights.sum())
    return total**2 / float((weights**2).sum()) if total > 0 else 0.0
