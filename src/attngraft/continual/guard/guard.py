"""The guard: passes or fails a candidate, and reports nothing else.

The candidate has to pass every test at the level of the attempt, so a candidate that is bad in any respect passes with
at most that probability (an intersection-union test, Berger, Technometrics 24 (1982)), and no correction for the number
of tests is due. The tests are exact (`statistics.exact_tests`); the levels come from the `ledger`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError
from ...statistics.exact_tests import is_noninferior, superiority_p

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class GuardPolicy:
    """When a candidate may replace the served version; fixed for the life of a store.

    Attributes:
        alpha: probability of any bad promotion in the whole life of the store, at most.
        delta: loss of accuracy on the old data that has to be ruled out, as a fraction (0.02 is two points).
        class_delta: the same for each class, against the served version; None does not test classes.
        latency_budget: latency of one image over that of the served version, at most; None is no limit.
        size_budget: bytes over those of the served version, at most; None is no limit.
        power: for which the number of images that is asked for is computed.
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


@dataclass(frozen=True)
class PairedCounts:
    """Two models on the same images: how many only the candidate gets right, how many only the other, and all."""

    gained: int
    lost: int
    images: int

    @classmethod
    def of(cls, candidate: Bools, other: Bools) -> PairedCounts:
        """Count images that are right (True) or wrong."""
        return cls(int((candidate & ~other).sum()), int((other & ~candidate).sum()), len(candidate))


@dataclass(frozen=True)
class GuardSizes:
    """How many images the guard has.

    Attributes:
        old_per_class: old images of each class, in the order of the classes.
        of_base: old images that are compared with the base; all where not given.
    """

    new: int
    old: int
    old_per_class: tuple[int, ...]
    of_base: int | None = None


@dataclass(frozen=True)
class PairedCorrect:
    """Which images each model classifies correctly.

    Attributes:
        new_candidate, new_served: (N,) on the new data.
        old_candidate, old_served, old_base: (M,) on the old data; the last is the base version of the store.
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
        of_base = self.old_base if self.of_base is None else self.of_base
        old = {len(values) for values in (self.old_candidate, self.old_served, self.old_base, self.old_labels, of_base)}
        if len(self.new_candidate) != len(self.new_served) or len(old) > 1:
            raise ConfigError("the models were given different numbers of images: give all the same.")
        if len(self.old_labels) and not 0 <= self.old_labels.min() <= self.old_labels.max() < len(self.classes):
            raise ConfigError(f"the labels of the old images do not fit {len(self.classes)} classes: pass all classes.")

    def on_new(self) -> PairedCounts:
        """Against the served version, on the new data."""
        return PairedCounts.of(self.new_candidate, self.new_served)

    def on_old(self) -> PairedCounts:
        """Against the served version, on the old data."""
        return PairedCounts.of(self.old_candidate, self.old_served)

    def by_class(self) -> list[PairedCounts]:
        """Against the served version, on the old data of each class."""
        masks = [self.old_labels == index for index in range(len(self.classes))]
        return [PairedCounts.of(self.old_candidate[mask], self.old_served[mask]) for mask in masks]

    def against_base(self) -> PairedCounts:
        """Against the base version, on the old data that the base was made for."""
        mask = np.ones(len(self.old_base), dtype=bool) if self.of_base is None else self.of_base
        return PairedCounts.of(self.old_candidate[mask], self.old_base[mask])


def judge(correct: PairedCorrect, policy: GuardPolicy, alpha: float) -> bool:
    """Whether the candidate passes every test at level alpha.

    Better than the served version on the new data; on the old data not worse than it by delta, nor than the base by
    delta, so that many small losses cannot add up; and in no class of the old data worse than it by class_delta.

    Nothing but this verdict may leave the guard: no accuracy, no p-value, not which test failed. The error budget counts
    histories of pass and fail, and anything more lets candidates be fitted to the guard images.

    Args:
        correct: on the guard images.
        policy: its budgets are checked by `over_budget`.
        alpha: of this attempt, from the ledger.
    """
    new = correct.on_new()
    if superiority_p(new.gained, new.lost) > alpha:
        return False
    return all(is_noninferior(c.gained, c.lost, c.images, delta, alpha) for c, delta in _not_worse(correct, policy))


def over_budget(
    policy: GuardPolicy, *, latency_ratio: float | None = None, size_ratio: float | None = None
) -> str | None:
    """Why the candidate is too slow or too large, in one sentence; None within the budgets. Costs no alpha.

    Args:
        policy: the budgets.
        latency_ratio: latency of one image, candidate over served version; None where it was not measured.
        size_ratio: bytes, candidate over served version.
    """
    measured = (
        ("latency_budget", policy.latency_budget, latency_ratio, "takes {:.2f} times the time"),
        ("size_budget", policy.size_budget, size_ratio, "has {:.2f} times the bytes"),
    )
    for name, budget, ratio, words in measured:
        if budget is not None and ratio is not None and ratio > budget:
            much = words.format(ratio)
            return f"the candidate {much} of the served version, {name} allows {budget:g}: use a smaller update."
    return None


def _not_worse(correct: PairedCorrect, policy: GuardPolicy) -> Iterator[tuple[PairedCounts, float]]:
    yield correct.on_old(), policy.delta
    yield correct.against_base(), policy.delta
    if policy.class_delta is not None:
        yield from ((counts, policy.class_delta) for counts in correct.by_class() if counts.images)
