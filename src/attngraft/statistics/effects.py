"""Paired effects with intervals that account for training seeds and test images.

The input is always ``difference[s, i]``: the score of test image ``i`` under the variant trained with seed ``s``, minus
its score under the baseline trained with the same seed. Seeds and images are both samples of something larger, so both
add to the uncertainty: a crossed two-way random-effects analysis of variance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import ConfigError
from .interval import Interval
from .multiplicity import holm

Floats = NDArray[np.float64]
Method = Literal["crossed", "images only", "no variation", "one image", "folds"]


@dataclass(frozen=True)
class Effect:
    """A mean paired difference with its interval.

    Attributes:
        mean: the mean difference, in the unit of the scores (for fractions 0.01 is one point).
        low: lower end of the interval.
        high: upper end of the interval.
        standard_error: of the mean; 0 where nothing varies (then the interval is a bound, see ``method``).
        degrees_of_freedom: Satterthwaite's.
        p_value: two-sided, of no difference.
        seeds: number of paired seeds.
        images: number of test images.
        seed_variance: variance component of the seeds.
        image_variance: variance component of the images.
        residual_variance: what remains, for one seed and one image.
        confidence: of the interval.
        exclusion_low: effects below this can be excluded. At most `low`, and below it where few answers differ: the
            interval is computed with two more images, one that got better and one that got worse (Bonett and Price),
            and reaches at least as far as the rule of three. None in records of earlier versions.
        exclusion_high: effects above this can be excluded.
        seed_variance_known: False with one seed; the interval then holds for this pair of trained models only.
        method: "crossed"; "images only" (one seed); "no variation" (all differences equal: the interval is the
            exact bound on how often an unseen image could deviate, the rule of three); "one image"; "folds" (repeated
            cross-validation).
    """

    mean: float
    low: float
    high: float
    standard_error: float
    degrees_of_freedom: float
    p_value: float
    seeds: int
    images: int
    seed_variance: float
    image_variance: float
    residual_variance: float
    confidence: float = 0.95
    seed_variance_known: bool = True
    method: Method = "crossed"
    exclusion_low: float | None = None
    exclusion_high: float | None = None

    def excludes_below(self, value: float) -> bool:
        """Whether a true effect of this or less can be excluded at this confidence."""
        return (self.low if self.exclusion_low is None else self.exclusion_low) > value

    def excludes_above(self, value: float) -> bool:
        """Whether a true effect of this or more can be excluded at this confidence."""
        return (self.high if self.exclusion_high is None else self.exclusion_high) < value

    def to_json(self) -> dict[str, Any]:
        """Plain values, all of them finite."""
        return asdict(self)

    @property
    def interval(self) -> Interval:
        """The mean with its interval."""
        return Interval(self.mean, self.low, self.high)


@dataclass(frozen=True)
class ClassEffect:
    """The effect on the test images of one class, its p-value corrected over the classes."""

    class_name: str
    images: int
    effect: Effect
    p_adjusted: float

    def to_json(self) -> dict[str, Any]:
        """The entry of a comparison's ``per_class`` list."""
        effect = self.effect
        return {
            "class": self.class_name,
            "images": self.images,
            "mean": effect.mean,
            "low": effect.low,
            "high": effect.high,
            "p_adjusted": self.p_adjusted,
        }


def crossed_effect(difference: ArrayLike, *, confidence: float = 0.95, limit: float | None = None) -> Effect:
    """The mean difference with an interval that accounts for seeds and for images.

    The variance of the mean is ``(MS_seed + MS_image - MS_residual) / (S * N)``. A mean square below the residual
    one (a negative variance estimate) counts as equal to it, which can only widen the interval.

    Args:
        difference: (S, N), finite.
        confidence: of the interval.
        limit: the interval is cut at plus and minus this; None is 1 where no difference exceeds 1, else no limit.

    Raises:
        ConfigError: the difference is not a non-empty finite matrix, or the confidence is not in (0, 1).

    >>> effect = crossed_effect([[1, 0, 0], [1, 1, 0]])
    >>> round(effect.mean, 3), round(effect.standard_error, 3), round(effect.degrees_of_freedom, 3)
    (0.5, 0.289, 1.5)
    """
    matrix = _checked(difference, confidence)
    if limit is None:
        limit = 1.0 if np.abs(matrix).max() <= 1 else math.inf
    effect = _analysed(matrix, confidence)
    return _cut(_with_exclusion(effect, matrix, limit), limit)


def _analysed(matrix: Floats, confidence: float) -> Effect:
    seeds, images = matrix.shape
    mean = float(matrix.mean())
    if np.ptp(matrix) == 0:
        return _without_variation(mean, seeds, images, confidence)
    if images == 1:
        return _with_one_image(mean, matrix, confidence)
    return _with_one_seed(mean, matrix, confidence) if seeds == 1 else _crossed(mean, matrix, confidence)


def _with_exclusion(effect: Effect, matrix: Floats, limit: float) -> Effect:
    """The effect with the ends that exclusions rest on; those of the interval where differences have no limit.

    Where few answers differ, the images that would deviate are perhaps not among those tested, and the variance that
    is seen is too small. Source: Bonett and Price, Journal of Educational and Behavioral Statistics 37 (2012) 479-488.
    """
    if not math.isfinite(limit) or effect.method == "one image":
        return replace(effect, exclusion_low=effect.low, exclusion_high=effect.high)
    pseudo = np.tile([limit, -limit], (effect.seeds, 1))
    wider = _analysed(np.concatenate([matrix, pseudo], axis=1), effect.confidence)
    floor = limit * (1 - (1 - effect.confidence) ** (1 / effect.images))
    half = max(wider.high - wider.mean, floor)
    low, high = min(effect.low, effect.mean - half), max(effect.high, effect.mean + half)
    return replace(effect, exclusion_low=max(low, -limit), exclusion_high=min(high, limit))


def per_class_effects(
    difference: ArrayLike, labels: ArrayLike, classes: Sequence[str], *, confidence: float = 0.95
) -> tuple[ClassEffect, ...]:
    """The effect on each class that has test images, with Holm's correction over those classes.

    Args:
        difference: (S, N) differences of correctness.
        labels: (N,) class index of each test image.
        classes: the class names.
        confidence: of the intervals.

    Raises:
        ConfigError: the labels do not fit the difference or the classes.
    """
    matrix, label = np.asarray(difference, dtype=np.float64), np.asarray(labels)
    if matrix.ndim != 2 or label.shape != matrix.shape[1:]:
        raise ConfigError(f"got labels of shape {label.shape} for differences {matrix.shape}: expected one per image.")
    if label.size and not 0 <= label.min() <= label.max() < len(classes):
        raise ConfigError(f"got labels {label.min()} to {label.max()}: expected 0 to {len(classes) - 1}.")
    present = [index for index in range(len(classes)) if (label == index).any()]
    effects = [crossed_effect(matrix[:, label == index], confidence=confidence) for index in present]
    adjusted = holm([effect.p_value for effect in effects])
    return tuple(
        ClassEffect(classes[index], effect.images, effect, p)
        for index, effect, p in zip(present, effects, adjusted, strict=True)
    )


# The analysis of variance. Leading dimensions are kept, so that a simulation can do many experiments at once.


def mean_squares(matrix: Floats) -> tuple[Floats, Floats, Floats]:
    """(..., S, N) -> the mean squares of seeds, of images and of the residual, each (...)."""
    seeds, images = matrix.shape[-2:]
    grand = matrix.mean((-2, -1), keepdims=True)
    by_seed, by_image = matrix.mean(-1, keepdims=True) - grand, matrix.mean(-2, keepdims=True) - grand
    residual = matrix - grand - by_seed - by_image
    ms_seed = images * np.square(by_seed).sum((-2, -1)) / (seeds - 1)
    ms_image = seeds * np.square(by_image).sum((-2, -1)) / (images - 1)
    ms_residual = np.square(residual).sum((-2, -1)) / ((seeds - 1) * (images - 1))
    return ms_seed, ms_image, ms_residual


def error_of_mean(
    ms_seed: Floats, ms_image: Floats, ms_residual: Floats, seeds: Floats | int, images: Floats | int
) -> tuple[Floats, Floats]:
    """Standard error of the grand mean and Satterthwaite's degrees of freedom."""
    ms_seed, ms_image = np.maximum(ms_seed, ms_residual), np.maximum(ms_image, ms_residual)
    total = ms_seed + ms_image - ms_residual
    spread = ms_seed**2 / (seeds - 1) + ms_image**2 / (images - 1) + ms_residual**2 / ((seeds - 1) * (images - 1))
    return np.sqrt(total / (seeds * images)), total**2 / spread


def _crossed(mean: float, matrix: Floats, confidence: float) -> Effect:
    seeds, images = matrix.shape
    squares = mean_squares(matrix)
    error, df = error_of_mean(*squares, seeds, images)
    ms_seed, ms_image, ms_residual = (float(square) for square in squares)
    components = (max(ms_seed - ms_residual, 0.0) / images, max(ms_image - ms_residual, 0.0) / seeds, ms_residual)
    return _t_interval(mean, float(error), float(df), (seeds, images), components, confidence, "crossed")


def _with_one_seed(mean: float, matrix: Floats, confidence: float) -> Effect:
    images = matrix.shape[1]
    variance = float(matrix.var(ddof=1))
    error = math.sqrt(variance / images)
    return _t_interval(mean, error, images - 1.0, (1, images), (0.0, variance, 0.0), confidence, "images only")


def _without_variation(mean: float, seeds: int, images: int, confidence: float) -> Effect:
    """All differences are equal: how often could an unseen image still deviate, and by how much at most?

    Seeing no deviation in N images bounds its rate by 1 - alpha^(1/N), about 3/N; a deviation moves the difference
    from ``mean`` to at most 1 on the other side. The seeds of one image are not counted as independent.
    """
    half = (1 - (1 - confidence) ** (1 / images)) * (1 + abs(mean))
    p_value = (1 - abs(mean) / (1 + abs(mean))) ** images  # the confidence at which the bound just reaches 0
    return Effect(
        mean, mean - half, mean + half, 0.0, max(images - 1.0, 1.0), p_value, seeds, images, 0.0, 0.0, 0.0,
        confidence, seeds > 1, "no variation",
    )  # fmt: skip


def _with_one_image(mean: float, matrix: Floats, confidence: float) -> Effect:
    """One image says nothing about others: the interval is everything that is possible."""
    reach = max(1.0, float(np.abs(matrix).max()))
    return Effect(
        mean, -reach, reach, 0.0, 1.0, 1.0, matrix.shape[0], 1, float(matrix.var(ddof=1)), 0.0, 0.0,
        confidence, True, "one image",
    )  # fmt: skip


def _t_interval(
    mean: float,
    error: float,
    df: float,
    shape: tuple[int, int],
    components: tuple[float, float, float],
    confidence: float,
    method: Method,
) -> Effect:
    from scipy.special import stdtr, stdtrit  # late: most of this module's import time

    half = float(stdtrit(df, 0.5 + confidence / 2)) * error
    p_value = float(2 * stdtr(df, -abs(mean) / error))
    return Effect(
        mean, mean - half, mean + half, error, df, min(p_value, 1.0), *shape, *components,
        confidence, method != "images only", method,
    )  # fmt: skip


def _cut(effect: Effect, limit: float) -> Effect:
    if max(abs(effect.low), abs(effect.high)) <= limit:
        return effect
    return replace(effect, low=max(effect.low, -limit), high=min(effect.high, limit))


def _checked(difference: ArrayLike, confidence: float) -> Floats:
    matrix = np.asarray(difference, dtype=np.float64)
    if matrix.ndim != 2 or not matrix.size:
        raise ConfigError(f"got differences of shape {matrix.shape}: expected seeds x images, at least one of each.")
    if not np.isfinite(matrix).all():
        raise ConfigError("the differences hold NaN or infinity: expected finite numbers.")
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence is {confidence}: expected a number between 0 and 1, for example 0.95.")
    return matrix
