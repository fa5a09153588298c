"""Running statistics of gates, in constant memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ConfigError

NEAR_LIMIT = 0.02  # of the range between the limits: nearer than this counts as saturated
NEAR_ZERO = 0.05  # of the range above the lower limit: an element that never leaves it counts as dead
NO_VARIANCE = 1e-12


@dataclass(frozen=True)
class PartStatistics:
    """What one part of the gates of one site does over all images.

    Attributes:
        elements: numbers per image, for example C of a channel gate and H x W of a spatial one.
        mean: over all elements and images.
        spread: standard deviation over all elements and images.
        low: smallest value.
        high: largest value.
        distance: mean distance from the value that changes nothing.
        between: variance between images, of each element, averaged over the elements.
        fixed: variance between elements, of their means over the images.
        dynamic: between / (between + fixed), how much of the variation depends on the image; 0 where nothing varies.
        swing: square root of `between`, in units of the gate.
        saturated: part of the values within 2 % of the range of a limit; None where there are no limits.
        dead: elements that stay within 5 % of the range above the lower limit for every image; None as above.
    """

    elements: int
    mean: float
    spread: float
    low: float
    high: float
    distance: float
    between: float
    fixed: float
    dynamic: float
    swing: float
    saturated: float | None
    dead: int | None

    def to_json(self) -> dict[str, float | int | None]:
        """The fields; None for what is not finite."""
        return {name: value if value is None or math.isfinite(value) else None for name, value in asdict(self).items()}


class GateMoments:
    """Means, variances, extremes and counts of one part of the gates of one site.

    Batches are merged in float64 by the updates of Chan, Golub and LeVeque (The American Statistician 37, 1983),
    which do not subtract large sums from each other.

    Args:
        neutral: the value that changes nothing, as `Attention.neutral`.
        limits: between which values the gate lies, as `Attention.limits`; None where it is not bounded.
        classes: number of classes whose means are wanted, 0 for none.
    """

    def __init__(self, *, neutral: float = 1.0, limits: tuple[float, float] | None = None, classes: int = 0) -> None:
        self.neutral, self.limits, self.classes = neutral, limits, classes
        self.images = 0
        self._mean = self._squares = torch.empty(0)  # per element: mean, and sum of squared deviations from it
        self._low = self._high = torch.empty(0)
        self._distance, self._saturated = 0.0, 0
        self._class_sums, self._class_images = torch.empty(0), torch.zeros(classes, dtype=torch.int64)

    def add(self, gates: Tensor, labels: Sequence[int] | NDArray[np.int64] | None = None) -> None:
        """Count the gates of a batch.

        Args:
            gates: (B, ...), of any floating-point type, on any device.
            labels: (B,), class of each image, negative where unknown; only looked at where classes are wanted.

        Raises:
            ConfigError: gates of another size than before, or labels that do not fit; nothing is counted.
        """
        single = gates.detach().float().cpu()
        if not len(single):
            return
        values = single.double()
        chosen = self._checked(labels, len(values)) if self.classes and labels is not None else None
        if not self.images:
            self._begin(values)
        if values.shape[1:] != self._mean.shape:
            raise ConfigError(
                f"got gates of {tuple(values.shape[1:])} after gates of {tuple(self._mean.shape)}: "
                "give images of one size."
            )
        self._merge(values)
        low, high = torch.aminmax(single, dim=0)
        self._low, self._high = torch.minimum(self._low, low), torch.maximum(self._high, high)
        self._distance += float((values - self.neutral).abs_().sum())
        self._saturated += self._near_limits(single)
        if chosen is not None:
            self._count_classes(values, chosen)

    def mean(self) -> Tensor:
        """(1, ...) float64, mean of each element over the images.

        Raises:
            ConfigError: no gates were added.
        """
        self._check_begun()
        return self._mean[None].clone()

    def variance(self) -> Tensor:
        """(1, ...) float64, variance of each element between the images (that of a population).

        Raises:
            ConfigError: no gates were added.
        """
        self._check_begun()
        return self._squares[None] / self.images

    def class_means(self) -> Tensor:
        """(K, ...) float64, mean of each element over the images of each class; NaN for a class without images.

        Raises:
            ConfigError: no gates were added, or no classes were wanted.
        """
        self._check_begun()
        if not self.classes:
            raise ConfigError("the means of classes were not gathered: give GateMoments the number of classes.")
        counts = self._class_images.double().reshape(-1, *[1] * self._mean.dim())
        return torch.where(counts > 0, self._class_sums / counts.clamp_min(1), torch.nan)

    def statistics(self) -> PartStatistics:
        """All of it in a few numbers.

        Raises:
            ConfigError: no gates were added.
        """
        self._check_begun()
        elements = self._mean.numel()
        between = float(self.variance().mean())
        fixed = float(self._mean.var(correction=0))
        total = between + fixed
        return PartStatistics(
            elements=elements,
            mean=float(self._mean.mean()),
            spread=math.sqrt(total),
            low=float(self._low.min()),
            high=float(self._high.max()),
            distance=self._distance / (self.images * elements),
            between=between,
            fixed=fixed,
            dynamic=0.0 if total < NO_VARIANCE else between / total,
            swing=math.sqrt(between),
            saturated=None if self.limits is None else self._saturated / (self.images * elements),
            dead=self._dead(),
        )

    def _begin(self, values: Tensor) -> None:
        shape = values.shape[1:]
        self._mean, self._squares = (torch.zeros(shape, dtype=torch.float64) for _ in range(2))
        self._low, self._high = torch.full(shape, math.inf), torch.full(shape, -math.inf)
        if self.classes:
            self._class_sums = torch.zeros(self.classes, *shape, dtype=torch.float64)

    def _check_begun(self) -> None:
        if not self.images:
            raise ConfigError("no gates were counted: add some first.")

    def _merge(self, values: Tensor) -> None:
        count, before = len(values), self.images
        mean = values.mean(0)
        squares = (values - mean).square_().sum(0)
        step = mean - self._mean
        self.images = before + count
        self._mean += step * (count / self.images)
        self._squares += squares + step.square() * (before * count / self.images)

    def _near_limits(self, values: Tensor) -> int:
        if self.limits is None:
            return 0
        low, high = self.limits
        margin = NEAR_LIMIT * (high - low)
        return int(((values <= low + margin) | (values >= high - margin)).sum())

    def _dead(self) -> int | None:
        if self.limits is None:
            return None
        low, high = self.limits
        return int((self._high <= low + NEAR_ZERO * (high - low)).sum())

    def _checked(self, labels: Sequence[int] | NDArray[np.int64], count: int) -> Tensor:
        found = np.asarray(labels, dtype=np.int64)
        if len(found) != count or found.max(initial=-1) >= self.classes:
            raise ConfigError(
                f"got {len(found)} labels up to {found.max(initial=-1)} for {count} images: expected one per image, "
                f"below {self.classes}."
            )
        return torch.from_numpy(found)

    def _count_classes(self, values: Tensor, labels: Tensor) -> None:
        known = labels >= 0
        self._class_sums.index_add_(0, labels[known], values[known])
        self._class_images += torch.bincount(labels[known], minlength=self.classes)
