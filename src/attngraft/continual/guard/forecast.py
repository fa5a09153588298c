"""Forecast the power of the guard from the tune images.

A test that can hardly be passed spends its level all the same, so such a candidate is refused before, with the number of
images that would be enough.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...statistics.exact_power import images_needed, images_needed_superiority, power_noninferiority, power_superiority
from .guard import GuardPolicy, GuardSizes, PairedCorrect, PairedCounts

NEW, OLD, BASE = "new data", "old data", "old data against the base"
CLASS_WEIGHT = 50  # pseudo-images of the average class that are added to those of each class
MOST_NAMED = 3  # tests in a sentence
MOST_COUNTED = 5  # tests whose need is computed


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
