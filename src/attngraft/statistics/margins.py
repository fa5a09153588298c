"""Verdicts about a margin: two one-sided tests (TOST).

Source: Schuirmann, Journal of Pharmacokinetics and Biopharmaceutics 15 (1987) 657-680; for margins and non-inferiority
Piaggio et al. (CONSORT), JAMA 308 (2012) 2594-2604.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .effects import Effect

MarginKind = Literal["as good as", "no worse", "worse", "undecided"]


@dataclass(frozen=True)
class MarginVerdict:
    """What an interval says about a margin.

    Attributes:
        margin: in the unit of the scores.
        kind: "as good as" (the effect is within the margin either way), "no worse" (a loss of the margin is excluded),
            "worse" (there is a loss, and it is larger than the margin), or "undecided".
        low, high: what the verdict rests on.
        confidence: of these; 0.90 for two one-sided tests at 5 %.
    """

    margin: float
    kind: MarginKind
    low: float
    high: float
    confidence: float


def margin_verdict(effect: Effect, margin: float, *, higher_is_better: bool = True) -> MarginVerdict:
    """Compare an effect with a margin.

    Args:
        effect: computed with the confidence 1 - 2 alpha, so with 0.90 for tests at 5 %.
        margin: above 0, in the unit of the scores.
        higher_is_better: whether a negative effect is a loss.
    """
    low = effect.low if effect.exclusion_low is None else effect.exclusion_low
    high = effect.high if effect.exclusion_high is None else effect.exclusion_high
    worst, best = (low, high) if higher_is_better else (-high, -low)
    kind: MarginKind = "undecided"
    if effect.seed_variance_known and effect.method != "one image":
        if worst > -margin:
            kind = "as good as" if best < margin else "no worse"
        elif best < -margin:
            kind = "worse"
    return MarginVerdict(margin, kind, low, high, effect.confidence)
