"""What the guard asks for, and what it is shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ... import config
from ...errors import ConfigError

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class GuardPolicy:
    """When a candidate may replace the served version; fixed for the life of a store.

    Attributes:
        alpha: probability of any bad promotion in the whole life of the store, at most.
        delta: loss of accuracy on the old data that has to be ruled out, as a fraction (0.02 is two points).
        class_delta: the same for each class, against the served version; None does not look at classes.
        latency_budget: latency of one image over that of the served version, at most; None is no limit.
        size_budget: bytes over those of the served version, at most; None is no limit.
        power: what the number of images that is asked for is computed for.
        least_power: a candidate with less chance to pass is refused before anything is spent.

    Raises:
        ConfigError: a number outside its range.
    """

    alpha: float = 0.05
    delta: float = 0.02
    class_delta: float | None = 0.10
    latency_budget: float | None = None
    size_budget: float | None = None
    power: float = 0.8
    least_power: float = 0.5

    def __post_init__(self) -> None:
        for name in ("alpha", "delta", "class_delta", "power"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise ConfigError(f"{name} is {value}: expected a number between 0 and 1.")
        if not 0 <= self.least_power <= self.power:
            raise ConfigError(f"least_power is {self.least_power}: expected a number from 0 to power, {self.power}.")
        for name in ("latency_budget", "size_budget"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ConfigError(f"{name} is {value}: expected a ratio above 0, for example 1.05.")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return config.to_dict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GuardPolicy:
        """The policy of `to_dict`, or of options that a user gave.

        Raises:
            ConfigError: unknown names, wrong types or ranges.
        """
        return config.from_dict(cls, values, where="guard")


@dataclass(frozen=True)
class GuardAnswers:
    """Which images were answered rightly, by whom.

    Attributes:
        new_candidate: (N,) on the new data, by the candidate.
        new_served: (N,) on the same images, by the served version.
        old_candidate: (M,) on the old data, by the candidate.
        old_served: (M,) by the served version.
        old_base: (M,) by the base version of the store.
        old_labels: (M,) class index of each old image.
        classes: the class names. A class without old images is not tested.
        of_base: (M,) which old images are of the kind that the base was made for: only these are compared with it, so
            that gains on what it never learned cannot hide a loss; None for all.

    Raises:
        ConfigError: lengths or labels that do not fit together.
    """

    new_candidate: Bools
    new_served: Bools
    old_candidate: Bools
    old_served: Bools
    old_base: Bools
    old_labels: NDArray[np.int64]
    classes: tuple[str, ...]
    of_base: Bools | None = None

    def __post_init__(self) -> None:
        for name in ("new_candidate", "new_served", "old_candidate", "old_served", "old_base"):
            values = np.asarray(getattr(self, name))
            if values.dtype != np.bool_ or values.ndim != 1:
                raise ConfigError(
                    f"{name} is {values.dtype} of shape {values.shape}: expected one true or false an image."
                )
        new = {len(self.new_candidate), len(self.new_served)}
        old = {len(values) for values in (self.old_candidate, self.old_served, self.old_base, self.old_labels)}
        if self.of_base is not None:
            old.add(len(self.of_base))
        if len(new) > 1 or len(old) > 1:
            raise ConfigError("the answers are of different numbers of images: ask all models about the same images.")
        if len(self.old_labels) and not 0 <= self.old_labels.min() <= self.old_labels.max() < len(self.classes):
            raise ConfigError(f"the labels of the old images do not fit {len(self.classes)} classes: pass all classes.")

    def counts(self) -> list[Counts]:
        """Gains and losses of every comparison on the old data against the served version: in all, then by class."""
        whole = Counts.of(self.old_candidate, self.old_served)
        masks = [self.old_labels == index for index in range(len(self.classes))]
        return [whole, *(Counts.of(self.old_candidate[mask], self.old_served[mask]) for mask in masks)]

    def against_base(self) -> Counts:
        """Gains and losses against the base version."""
        mask = np.ones(len(self.old_base), dtype=bool) if self.of_base is None else self.of_base
        return Counts.of(self.old_candidate[mask], self.old_base[mask])


@dataclass(frozen=True)
class Counts:
    """A paired comparison: images that only the candidate gets right, that only the other does, and all."""

    gained: int
    lost: int
    images: int

    @classmethod
    def of(cls, candidate: Bools, other: Bools) -> Counts:
        """Counted on the same images."""
        return cls(int((candidate & ~other).sum()), int((other & ~candidate).sum()), len(candidate))


@dataclass(frozen=True)
class GuardSizes:
    """How many images the guard has.

    Attributes:
        new: new images.
        old: old images.
        old_per_class: old images of each class, in the order of the classes.
        of_base: old images that are compared with the base; all where not given.
    """

    new: int
    old: int
    old_per_class: tuple[int, ...]
    of_base: int | None = None
