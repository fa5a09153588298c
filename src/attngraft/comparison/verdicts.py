"""Verdicts: sentences about an effect, its interval and its power."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ..statistics.effects import Effect
from ..statistics.power import Needed, at_corrected_level, needed, smallest_detectable
from ..tasks import Metric

Kind = Literal["helps", "hurts", "no evidence", "one seed"]


@dataclass(frozen=True)
class Verdict:
    """One of four kinds, and the sentence that says so with its numbers."""

    kind: Kind
    sentence: str


class Judge:
    """Says in sentences what effects on a metric allow to say.

    Args:
        metric: what the variants are compared by.
        power: of the smallest detectable effect.
    """

    def __init__(self, metric: Metric, power: float = 0.8) -> None:
        self.metric, self.power = metric, power
        self.sign = 1 if metric.higher_is_better else -1
        self.range = metric.bounds[1] - metric.bounds[0]

    def verdict(
        self,
        effect: Effect,
        p_adjusted: float | None = None,
        *,
        name: str,
        against: str = "none",
        comparisons: int = 1,
    ) -> Verdict:
        """What the effect allows to say about a variant.

        Args:
            effect: of the variant minus what it is compared with.
            p_adjusted: Holm's p-value over all comparisons; the effect's own where there is one comparison.
            name: the variant.
            against: what it is compared with.
            comparisons: how many p-values were corrected together, for the sentence.
        """
        significance = 1 - effect.confidence
        p_value = effect.p_value if p_adjusted is None else max(p_adjusted, effect.p_value)
        versus = "" if against == "none" else f" against '{against}'"
        if not effect.seed_variance_known:
            return Verdict("one seed", self._one_seed_sentence(effect, name, versus))
        if p_value <= significance and effect.mean != 0:
            kind: Kind = "helps" if self.sign * effect.mean > 0 else "hurts"
            return Verdict(kind, f"{name} {kind}{versus}: {self._with_interval(effect)}")
        return Verdict("no evidence", self._no_evidence_sentence(effect, name, versus, comparisons))

    def control_clause(
        self, attention_name: str, control_name: str, effect_of_difference: Effect, p_adjusted: float | None = None
    ) -> str:
        """Whether the attention does more than a control, as the end of a sentence.

        Args:
            attention_name: the attention.
            control_name: the control, for example "static".
            effect_of_difference: of the attention minus the control.
            p_adjusted: its p-value after correction, where several controls or attentions were tried.
        """
        effect, control = effect_of_difference, f"the control '{control_name}'"
        numbers = f"difference {self._difference(effect.mean, effect)}, {self._interval(effect)}"
        if not effect.seed_variance_known:
            return f"; one seed cannot say whether {attention_name} goes beyond {control} ({numbers})"
        sure = p_adjusted is None or p_adjusted <= 1 - effect.confidence
        worst, best = sorted((self.sign * effect.low, self.sign * effect.high))
        if worst > 0 and sure:
            return f"; this is beyond {control} ({numbers})"
        if best < 0 and sure:
            return f"; {control} does better ({numbers})"
        if self._is_in_points and max(abs(effect.low), abs(effect.high)) <= 0.01 + 1e-9:
            return f"; {control} does as well ({numbers})"
        return f"; {attention_name} is not shown to go beyond {control} ({numbers})"

    def non_inferiority_clause(self, effect: Effect, margin: float = 0.01) -> str:
        """What the interval excludes at a margin worth caring about; empty where it excludes nothing."""
        if not effect.seed_variance_known or effect.method == "one image" or not self._is_in_points:
            return ""
        worth = f"{100 * margin:.3g} point{'' if margin == 0.01 else 's'}"
        if effect.low > -margin and effect.high < margin:
            return f"; a gain or a loss of {worth} or more is unlikely"
        if effect.low > -margin:
            return f"; a loss of {worth} or more is unlikely"
        if effect.high < margin:
            return f"; a gain of {worth} or more is unlikely"
        return ""

    @property
    def _is_in_points(self) -> bool:
        return self.metric.unit == "points" and self.metric.higher_is_better

    def _one_seed_sentence(self, effect: Effect, name: str, versus: str) -> str:
        return (
            f"one seed cannot say whether {name} helps or hurts{versus}: {self._with_interval(effect)}; this interval "
            "knows nothing of the spread between training runs, so add seeds (3 or more)"
        )

    def _no_evidence_sentence(self, effect: Effect, name: str, versus: str, comparisons: int) -> str:
        start = f"no evidence that {name} helps or hurts{versus}: "
        if effect.method == "no variation" and effect.mean == 0:
            bound = f"{self._difference(effect.high, effect)}{self._unit}"
            same = "are right on the same images" if self.metric.is_binary else "score the same on every image"
            return f"{start}both {same} in every seed ({_size(effect)}); a true effect beyond {bound} either way is unlikely"
        start += self._with_interval(effect)
        if effect.p_value <= 1 - effect.confidence:
            start += f"; its own interval excludes 0, but not after correction for {comparisons} comparisons"
        strict = at_corrected_level(effect, comparisons)
        start += self._detectable_clause(strict)
        return start + _settling(needed(strict, self.power), effect) + self.non_inferiority_clause(effect)

    def _detectable_clause(self, effect: Effect) -> str:
        smallest = smallest_detectable(effect, self.power)
        if smallest >= self.range:
            return "; a comparison this small can see no effect at all"
        seen = self._difference(smallest, effect).lstrip("+")
        return f"; this comparison could have seen an effect of {seen}{self._unit} or more ({100 * self.power:.0f} % power)"

    def _with_interval(self, effect: Effect) -> str:
        sure = f"{100 * effect.confidence:g} % interval"
        number = f"{self._difference(effect.mean, effect)}{self._unit} {self.metric.label}"
        return f"{number} ({sure} {self._interval(effect)}; {_size(effect)})"

    @property
    def _unit(self) -> str:
        return f" {self.metric.unit}" if self.metric.unit else ""

    def _interval(self, effect: Effect) -> str:
        return f"{self._difference(effect.low, effect)} to {self._difference(effect.high, effect)}"

    def _difference(self, value: float, effect: Effect) -> str:
        """With a sign and as many decimals as the interval deserves, fractions in points."""
        low, high = self.metric.scale * effect.low, self.metric.scale * effect.high
        if self.metric.unit == "points":
            nearly_zero = any(0 < abs(end) < 0.05 for end in (low, high))  # on which side is the end?
            return signed(self.metric.scale * value, 2 if high - low < 1 or nearly_zero else 1)
        return signed(value, decimals_for(high - low))


def decimals_for(width: float) -> int:
    """How many decimals show two digits of an interval of this width.

    >>> decimals_for(2.2), decimals_for(0.03), decimals_for(250.0)
    (1, 3, 0)
    """
    return min(max(1 - math.floor(math.log10(width)), 0), 12) if width > 0 and math.isfinite(width) else 2


def signed(value: float, decimals: int) -> str:
    """A number with its sign, which zero has not.

    >>> signed(2.345, 1), signed(-0.04, 1)
    ('+2.3', '0.0')
    """
    text = f"{value:+.{decimals}f}"
    return text.lstrip("+-") if float(text) == 0 else text


def _settling(needs: Needed, effect: Effect) -> str:
    ways = []
    if needs.more_seeds:
        ways.append(f"about {needs.more_seeds} more seed{'' if needs.more_seeds == 1 else 's'}")
    if needs.images is not None and needs.images > effect.images:
        ways.append(f"about {_rounded_up(needs.images):,} test images instead of {effect.images:,}")
    if ways:
        return f"; {', or '.join(ways)}{',' if len(ways) > 1 else ''} would settle an effect of this size"
    if effect.mean == 0 or effect.method != "crossed" or needs.more_seeds == 0:
        return ""
    return "; neither more seeds alone nor more images alone would settle an effect this small"


def _size(effect: Effect) -> str:
    seeds, images = ("" if count == 1 else "s" for count in (effect.seeds, effect.images))
    return f"{effect.seeds} seed{seeds} x {effect.images:,} image{images}"


def _rounded_up(count: int) -> int:
    step = 10 ** max(len(str(count)) - 2, 0)
    return -(-count // step) * step
