"""The guard: passes or fails a candidate, and reports nothing else; and the forecast whether asking it is worth the level.

The candidate has to pass every test at the level of the attempt, so a candidate that is bad in any respect passes with
at most that probability (an intersection-union test, Berger, Technometrics 24 (1982)), and no correction for the number
of tests is due. The tests are exact (`statistics.exact_tests`); the levels come from the `ledger`.

The tests take images for independent draws. Where images come in groups, the caller gives one image of each group (see
`images.split_assignment.one_of_each_group`).

A test that can hardly be passed spends its level all the same, so such a candidate is refused before, by a forecast from
the tune images, with the number of images that would be enough.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError
from ...statistics.exact_power import images_needed, images_needed_superiority, power_noninferiority, power_superiority
from ...statistics.exact_tests import is_noninferior, superiority_p

Bools = NDArray[np.bool_]
NEW, OLD, BASE = "new data", "old data", "old data against the base"
CLASS_WEIGHT = 50  # pseudo-images of the average class that are added to those of each class
MOST_NAMED = 3  # tests in a sentence
MOST_COUNTED = 5  # tests whose need is computed


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


@dataclass(frozen=True)
class Forecast:
    """The chance that a candidate passes.

    Attributes:
        power: chance that the candidate passes all tests, if it is as good as it looks on the tune images. Tests on
            different images count as independent, those against the served version and against the base as one.
        criteria: chance to pass each test, by name: "new data", "old data", "old data against the base", "class 'cat'".
        decidable: whether asking is worth the level; false below the policy's least_power, or where the candidate is not
            better on the new tune images.
        sentence: why, with numbers.
        needed: guard images for the tests, at most five, that are too weak for the policy's power over all tests; None
            where no number is enough.
    """

    power: float
    criteria: dict[str, float]
    decidable: bool
    sentence: str
    needed: dict[str, int | None]


@dataclass(frozen=True)
class _Test:
    """A planned test: its guard images, the expected rates, and the margin."""

    name: str
    images: int
    psi: float
    difference: float
    delta: float | None  # None: better, not merely not worse

    def power(self, alpha: float) -> float:
        if self.delta is None:
            return power_superiority(self.images, self.psi, alpha, self.difference)
        return power_noninferiority(self.images, self.psi, self.delta, alpha, self.difference)

    def needed(self, alpha: float, power: float) -> int | None:
        if self.delta is None:
            return images_needed_superiority(self.psi, alpha, power, self.difference)
        return images_needed(self.psi, self.delta, alpha, power, self.difference)

    @property
    def subject(self) -> str:
        images = "image" if self.images == 1 else "images"
        kind = {NEW: f"new {images}", OLD: f"old {images}", BASE: f"old {images} to compare with the base"}
        return kind.get(self.name, f"{images} of {self.name}")

    def lacking(self, needed: int | None) -> str:
        shown = f"a gain of {100 * self.difference:.1f} points"
        if self.delta is not None:
            shown = f"a loss below {100 * self.delta:g} points"
        seen = f"{100 * self.psi:.1f} % disagreement"
        if self.delta is not None and self.difference <= -0.001:
            seen += f" and a loss of {-100 * self.difference:.1f} points"
        return f"{self.images:,} {self.subject} where {needed or 0:,} are needed to show {shown} with {seen}"


def forecast(tune: PairedCorrect, sizes: GuardSizes, policy: GuardPolicy, alpha: float) -> Forecast:
    """Estimate the chance that the guard passes a candidate from its predictions on the tune images.

    Rates of gains and losses are estimated with half an image added to each outcome, so that no disagreement on 50
    images is not taken for none, and those of a class are drawn towards all classes by 50 images of the average class.
    A gain on the old data is not counted on. Candidates that were chosen on the tune images look better there than they
    are, so the forecast is rather too high than too low."""
    new = tune.on_new()
    if new.gained <= new.lost:
        return Forecast(0.0, {NEW: 0.0}, False, _not_better(tune), {})
    tests = _tests(tune, sizes, policy)
    powers = {test.name: test.power(alpha) for test in tests}
    power = powers[NEW] * min(powers[OLD], powers[BASE])
    power *= math.prod(value for name, value in powers.items() if name not in (NEW, OLD, BASE))
    each = policy.power ** (1 / (len(tests) - 1))  # so that all together have the power
    weak = sorted((test for test in tests if powers[test.name] < each), key=lambda test: powers[test.name])
    needed = {test.name: test.needed(alpha, each) for test in weak[:MOST_COUNTED]}
    decidable = power >= policy.least_power
    sentence = f"the guard passes the candidate with a chance of about {100 * power:.0f} %, at alpha {alpha:.2g}."
    if not decidable:
        sentence = _too_small(weak, needed, policy, alpha)
    return Forecast(power, powers, decidable, sentence, needed)


def _tests(tune: PairedCorrect, sizes: GuardSizes, policy: GuardPolicy) -> list[_Test]:
    whole = tune.on_old()
    of_base = sizes.old if sizes.of_base is None else sizes.of_base
    tests = [_Test(NEW, sizes.new, *_expected(tune.on_new()), None)]
    for name, images, counts in ((OLD, sizes.old, whole), (BASE, of_base, tune.against_base())):
        psi, difference = _expected(counts)
        tests.append(_Test(name, images, psi, min(difference, 0.0), policy.delta))
    if policy.class_delta is not None:
        for name, images, counts in zip(tune.classes, sizes.old_per_class, tune.by_class(), strict=True):
            if images:
                psi, difference = _expected_of_class(counts, whole)
                tests.append(_Test(f"class '{name}'", images, psi, min(difference, 0.0), policy.class_delta))
    return tests


def _expected(counts: PairedCounts) -> tuple[float, float]:
    """Rate of disagreement and difference, with half an image for each of the three outcomes."""
    total = counts.images + 1.5
    return (counts.gained + counts.lost + 1) / total, (counts.gained - counts.lost) / total


def _expected_of_class(counts: PairedCounts, whole: PairedCounts) -> tuple[float, float]:
    psi, difference = _expected(whole)
    total = counts.images + CLASS_WEIGHT
    return (
        (counts.gained + counts.lost + CLASS_WEIGHT * psi) / total,
        (counts.gained - counts.lost + CLASS_WEIGHT * difference) / total,
    )


def _not_better(tune: PairedCorrect) -> str:
    images = len(tune.new_served)
    if not images:
        return "there are no new tune images: give more new data before the guard is asked."
    candidate, served = (100 * correct.mean() for correct in (tune.new_candidate, tune.new_served))
    return (
        f"on {images:,} new tune images the candidate gets {candidate:.1f} % right and the served version {served:.1f} %: "
        "it is not better, so the guard is not asked and nothing is spent."
    )


def _too_small(weak: list[_Test], needed: dict[str, int | None], policy: GuardPolicy, alpha: float) -> str:
    weak = _in_order(weak)
    counted = [test for test in weak if test.name in needed]
    hopeless = [test for test in counted if needed[test.name] is None]
    if hopeless:
        return _hopeless(hopeless[:MOST_NAMED])
    named, more = counted[:MOST_NAMED], len(weak) - min(len(counted), MOST_NAMED)
    lists = " and ".join(test.lacking(needed[test.name]) for test in named)
    others = f" (and {more} more {'test is' if more == 1 else 'tests are'} too weak)" if more else ""
    return (
        f"the guard has {lists}{others}, for a power of {100 * policy.power:.0f} % over all tests at alpha {alpha:.2g}: "
        f"add guard images{_larger(named)}."
    )


def _hopeless(tests: list[_Test]) -> str:
    lists = " and ".join(
        f"{-100 * test.difference:.1f} points on {test.name} where less than {100 * (test.delta or 0):g} has to be shown"
        for test in tests
    )
    return f"the candidate loses about {lists}, by the tune images: change it less{_larger(tests)}."


def _in_order(tests: list[_Test]) -> list[_Test]:
    """Those of all images before those of classes, and that against the base only where it adds to them."""
    held = {test.name: test.images for test in tests}
    kept = [test for test in tests if test.name != BASE or held.get(OLD) != test.images]
    return sorted(kept, key=lambda test: test.name.startswith("class "))


def _larger(tests: list[_Test]) -> str:
    deltas = ["class_delta" if test.name.startswith("class ") else "delta" for test in tests if test.delta is not None]
    return f", or create the store with a larger {' and '.join(dict.fromkeys(deltas))}" if deltas else ""
