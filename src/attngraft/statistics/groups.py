"""Images that come in groups, such as frames of one video or crops of one slide: the group is the unit, not the image."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import ConfigError
from .effects import Effect, crossed_effect

Floats = NDArray[np.float64]


def group_index(groups: ArrayLike) -> NDArray[np.int64]:
    """(N,) position of each image's group among the groups in the order of their names.

    >>> group_index(["b", "a", "b"])
    array([1, 0, 1])
    """
    return np.unique(np.asarray(groups), return_inverse=True)[1].reshape(-1).astype(np.int64)


def by_group(scores: ArrayLike, groups: ArrayLike) -> Floats:
    """Turn scores of images into scores of groups whose mean is the mean over images.

    With sum ``s_c`` and size ``n_c`` of group c, ``r = sum(s) / sum(n)`` and the mean size ``n``, a group has the score
    ``r + (s_c - r n_c) / n``: the ratio estimator, made linear. Groups are what is drawn from the world, so that an
    analysis that takes them for its images is right however much the images of a group are alike.

    Args:
        scores: (..., N) per image.
        groups: (N,) anything that tells groups apart.

    Returns:
        (..., C), groups in the order of their names.

    Raises:
        ConfigError: the groups do not fit the images.

    Source: Cochran, Sampling Techniques, 3rd edition, 1977, section 9A.

    >>> by_group([1.0, 0.0, 1.0, 1.0], ["a", "a", "b", "c"]).tolist()
    [0.375, 0.9375, 0.9375]
    """
    matrix, index = np.asarray(scores, dtype=np.float64), group_index(groups)
    if matrix.shape[-1:] != index.shape:
        raise ConfigError(f"got {len(index)} groups for scores {matrix.shape}: expected one for each image.")
    sizes = np.bincount(index).astype(np.float64)
    order = np.argsort(index, kind="stable")
    starts = np.append(0, np.cumsum(sizes)[:-1]).astype(np.int64)
    sums = np.add.reduceat(matrix[..., order], starts, axis=-1)
    ratio = matrix.mean(-1, keepdims=True)
    return np.asarray(ratio + (sums - ratio * sizes) / sizes.mean(), dtype=np.float64)


def effect_by_group(
    difference: ArrayLike, groups: ArrayLike | None, *, confidence: float = 0.95, limit: float | None = None
) -> Effect:
    """`crossed_effect` whose images are groups, where there are some.

    Args:
        difference: (S, N) of images.
        groups: (N,) anything that tells groups apart; None where every image stands for itself.
        confidence, limit: as for `crossed_effect`.

    Raises:
        ConfigError: the groups do not fit the images, or as for `crossed_effect`.
    """
    if groups is None:
        return crossed_effect(difference, confidence=confidence, limit=limit)
    if limit is None:  # scores of large groups exceed what one image may have
        limit = 1.0 if np.abs(np.asarray(difference)).max() <= 1 else math.inf
    return crossed_effect(by_group(difference, groups), confidence=confidence, limit=limit)
