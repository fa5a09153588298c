"""The guard: whether a candidate may replace the served version. It says yes or no and nothing else.

The candidate has to pass every test at the level of the attempt, so that a candidate that is bad in any respect passes
with at most that probability (an intersection-union test, Berger, Technometrics 24 (1982)), and no correction for the
number of tests is due. The tests are exact (`paired`); the levels come from the `ledger`.
"""

from __future__ import annotations

from collections.abc import Iterator

from ...statistics.exact_tests import is_noninferior, superiority_p
from .forecast import Forecast, forecast
from .policy import (
    Counts,
    GuardAnswers,
    GuardPolicy,
    GuardSizes,
)

__all__ = ["Forecast", "GuardAnswers", "GuardPolicy", "GuardSizes", "forecast", "judge", "over_budget"]


def judge(answers: GuardAnswers, policy: GuardPolicy, alpha: float) -> bool:
    """Whether the candidate passes every test at level alpha.

    Better than the served version on the new data; on the old data not worse than it by delta, nor than the base by
    delta, so that many small losses cannot add up; and in no class of the old data worse than it by class_delta.

    Nothing but this answer may leave the guard: no accuracy, no p-value, not which test failed. The error budget counts
    histories of yes and no, and anything more lets candidates be fitted to the guard images.

    Args:
        answers: on the guard images.
        policy: what is asked for; its budgets are checked by `over_budget`.
        alpha: of this attempt, from the ledger.
    """
    new = Counts.of(answers.new_candidate, answers.new_served)
    if superiority_p(new.gained, new.lost) > alpha:
        return False
    return all(is_noninferior(c.gained, c.lost, c.images, delta, alpha) for c, delta in _not_worse(answers, policy))


def over_budget(
    policy: GuardPolicy, *, latency_ratio: float | None = None, size_ratio: float | None = None
) -> str | None:
    """Why the candidate is too slow or too large, in one sentence; None where it is within the budgets.

    Asked before anything is spent.

    Args:
        policy: the budgets.
        latency_ratio: latency of one image, candidate over served version; None where it was not measured.
        size_ratio: bytes, candidate over served version.
    """
    asked = (
        ("latency_budget", policy.latency_budget, latency_ratio, "takes {:.2f} times the time"),
        ("size_budget", policy.size_budget, size_ratio, "has {:.2f} times the bytes"),
    )
    for name, budget, ratio, words in asked:
        if budget is not None and ratio is not None and ratio > budget:
            much = words.format(ratio)
            return f"the candidate {much} of the served version, {name} allows {budget:g}: use a smaller update."
    return None


def _not_worse(answers: GuardAnswers, policy: GuardPolicy) -> Iterator[tuple[Counts, float]]:
    whole, *by_class = answers.counts()
    yield whole, policy.delta
    yield answers.against_base(), policy.delta
    if policy.class_delta is not None:
        yield from ((counts, policy.class_delta) for counts in by_class if counts.images)
