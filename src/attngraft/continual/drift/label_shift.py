"""Do other proportions of the same classes explain a window?"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_STEPS = 100
_LEAST = 1e-12


def class_proportions(probabilities: NDArray[np.float32], usual: NDArray[np.float64]) -> NDArray[np.float64]:
    """Proportions of the classes under which these answers are most likely, if only the proportions have changed.

    Args:
        probabilities: (n, K), the model's answers.
        usual: (K,) proportions that the answers take for granted.

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
    """How much more often each image would come if the classes had the wanted proportions: (N, K) -> (N,)."""
    return np.asarray(probabilities @ (wanted / np.maximum(usual, _LEAST)), dtype=np.float64)


def effective_size(weights: NDArray[np.float64]) -> float:
    """Number of equally weighted images that a weighted mean is as good as (Kish, Survey Sampling, 1965)."""
    total = float(weights.sum())
    return total**2 / float((weights**2).sum()) if total > 0 else 0.0
