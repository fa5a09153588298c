"""Verdicts: sentences about an effect, its interval and its power."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..errors import counted
from ..statistics.effects import Effect
from ..statistics.margins import MarginVerdict
from ..statistics.power import at_corrected_level, at_level, planning_noise, seeds_needed, smallest_detectable
from .analysis_plan import ALPHA, AnalysisPlan

Kind = Literal["helps", "hurts", "no evidence", "one seed", "diverged"]

HARDLY = 0.003  # part of the answers that differ, below which a graft hardly moved


@dataclass(frozen=True)
class Verdict:
    """One of five kinds, and the sentence that says so with its numbers."""

    kind: Kind
    sentence: str


class Judge:
    """Says in sentences what effects on a metric allow to say.

    Args:
        plan: of the analysis, with its metric.
        power: of the smallest detectable effect.
    """

    def __init__(self, plan: AnalysisPlan, power: float = 0.8) -> None:
        self.plan, self.metric, self.power = plan, plan.metric, power
        self.sign = 1 if plan.metric.higher_is_better else -1

    def verdict(
        self,
        effect: Effect,
        p_adjusted: float | None = None,
        *,
        name: str,
        against: str = "none",
        comparisons: int = 1,
        left: float = math.inf,
        moved: float = 1.0,
        margin: MarginVerdict | None = None,
        failed: Sequence[int] = (),
        is_gated: bool = False,
    ) -> Verdict:
        """What the effect allows to say about a variant.

        Args:
            effect: of the variant minus what it is compared with.
            p_adjusted: p-value corrected over all comparisons; the effect's own where there is one comparison.
            name: the variant.
            against: what it is compared with.
            comparisons: how many p-values were corrected together, for the sentence.
            left: the largest gain that is possible.
            moved: part of the answers that differ.
            margin: what the effect says about the margin, where one is named.
            failed: seeds in which the variant's training diverged.
            is_gated: whether it is tested only where another effect was found before.
        """
        p_value = effect.p_value if p_adjusted is None else max(p_adjusted, effect.p_value)
        versus = "" if against == "none" else f" against '{against}'"
        if failed:
            return Verdict("diverged", self._diverged_sentence(effect, name, versus, failed))
        if not effect.seed_variance_known:
            return Verdict("one seed", self._one_seed_sentence(effect, name, versus))
        about_margin = "" if margin is None else self._margin_clause(margin, effect)
        if p_value <= ALPHA and effect.mean != 0:
            kind: Kind = "helps" if self.sign * effect.mean > 0 else "hurts"
            return Verdict(kind, f"{name} {kind}{versus}: {self._with_interval(effect)}{about_margin}")
        sentence = self._no_evidence_sentence(effect, name, versus, comparisons, left, is_gated)
        sentence += about_margin or self.exclusion_clause(effect)
        return Verdict("no evidence", sentence + (_moved_clause(moved) if self.plan.trains else ""))

    def control_clause(
        self, attention_name: str, control_name: str, effect_of_difference: Effect, p_adjusted: float | None = None
    ) -> str:
        """Whether the attention does more than a control, as the end of a sentence.

        Args:
            attention_name: the attention.
            control_name: the control, for example "static".
            effect_of_difference: of the attention minus the control.
            p_adjusted: its p-value after correction, which no effect of the attention itself leaves above 0.05.
        """
        effect, control = effect_of_difference, f"the control '{control_name}'"
        numbers = f"difference {self._difference(effect.mean, effect)}, {self._interval(effect)}"
        if not effect.seed_variance_known:
            return f"; one seed cannot say whether {attention_name} goes beyond {control} ({numbers})"
        sure = p_adjusted is None or p_adjusted <= ALPHA
        worst, best = sorted((self.sign * effect.low, self.sign * effect.high))
        if worst > 0 and sure:
            return f"; this is beyond {control} ({numbers})"
        if best < 0 and sure:
            return f"; {control} does better ({numbers})"
        if self._is_in_points and effect.excludes_below(-0.01 - 1e-9) and effect.excludes_above(0.01 + 1e-9):
            return f"; {control} does as well ({numbers})"
        return f"; {attention_name} is not shown to go beyond {control} ({numbers})"

    def exclusion_clause(self, effect: Effect, margin: float = 0.01) -> str:
        """What can be excluded at a margin worth caring about; empty where nothing can."""
        if not effect.seed_variance_known or effect.method == "one image" or not self._is_in_points:
            return ""
        worth = f"{100 * margin:.3g} point{'' if margin == 0.01 else 's'}"
        loss, gain = effect.excludes_below(-margin), effect.excludes_above(margin)
        if not (loss or gain):
            return ""
        what = "a gain or a loss" if loss and gain else "a loss" if loss else "a gain"
        return f"; {what} of {worth} or more is unlikely"

    def forecast_effect(self, effect: Effect, comparisons: int) -> Effect:
        """The effect at the level that it is tested at, for what it could have seen."""
        if self.plan.look is not None:
            return at_level(effect, self.plan.level(comparisons))
        return at_corrected_level(effect, comparisons)

    @property
    def _is_in_points(self) -> bool:
        return self.metric.unit == "points" and self.metric.higher_is_better

    def _one_seed_sentence(self, effect: Effect, name: str, versus: str) -> str:
        return (
            f"one seed cannot say whether {name} helps or hurts{versus}: {self._with_interval(effect)}; this interval "
            "knows nothing of the spread between training runs, so add seeds (3 or more)"
        )

    def _diverged_sentence(self, effect: Effect, name: str, versus: str, failed: Sequence[int]) -> str:
        total = len(failed) + effect.seeds
        seeds = f"seed{'' if len(failed) == 1 else 's'} {', '.join(map(str, failed))}"
        return (
            f"{name} diverged in {len(failed)} of {counted(total, 'run')} ({seeds}), so nothing is claimed{versus}: where it ended, "
            f"{self._with_interval(effect)}"
        )

    def _no_evidence_sentence(
        self, effect: Effect, name: str, versus: str, comparisons: int, left: float, is_gated: bool
    ) -> str:
        start = f"no evidence that {name} helps or hurts{versus}: "
        if effect.method == "no variation" and effect.mean == 0 and not self.plan.folds:
            bound = f"{self._difference(effect.high, effect)}{self._unit}"
            same = "are right on the same images" if self.metric.is_binary else "score the same on every image"
            return f"{start}both {same} in every seed ({self._size(effect)}); a true effect beyond {bound} either way is unlikely"
        start += self._with_interval(effect)
        if effect.p_value <= 1 - effect.confidence:
            why = (
                "since no attention has passed before"
                if is_gated
                else f"after correction for {comparisons} comparisons"
            )
            start += f"; its own interval excludes 0, but that does not count {why}"
        return start + self._detectable_clause(self.forecast_effect(effect, comparisons), left)

    def _detectable_clause(self, effect: Effect, left: float) -> str:
        found = smallest_detectable(effect, self.power, min(left, self.plan.limit))
        if found.size >= min(left, self.plan.limit):
            return (
                "; a comparison this small can see no effect at all"
                if found.size
                else "; there is nothing left to gain"
            )
        seen, low, high = (self._difference(v, effect).lstrip("+") for v in (found.size, found.low, found.high))
        spread = f", by the noise of {self._trainings(effect)} {low} to {high}" if found.low < found.high else ""
        return f"; this comparison could have seen an effect of {seen}{self._unit} or more ({100 * self.power:.0f} % power{spread})"

    def _margin_clause(self, margin: MarginVerdict, effect: Effect) -> str:
        size = f"{self._plain(margin.margin)}{self._unit if self.metric.unit != 'points' else ' points'}"
        size = "1 point" if size == "1 points" else size
        interval = f"{100 * margin.confidence:.3g} % interval {self._difference(margin.low, margin)} to {self._difference(margin.high, margin)}"
        if margin.kind == "undecided":
            return f"; a margin of {size} is not decided ({interval}){self._plan_clause(margin, effect)}"
        words = {
            "as good as": f"as good as without it, within {size}",
            "no worse": f"no worse than without it by {size} or more",
            "worse": f"worse than without it by more than {size}",
        }
        return f"; {words[margin.kind]} ({interval})"

    def _plan_clause(self, margin: MarginVerdict, effect: Effect) -> str:
        """How many seeds would find an effect of the margin: a plan for the margin, not for what was seen."""
        if effect.method != "crossed" or self.plan.looks is not None:
            return ""
        seeds = seeds_needed(
            planning_noise([effect]), effect.images, margin.margin, confidence=1 - ALPHA, power=self.power
        )
        if seeds is None:
            return "; with these test images no number of seeds would find an effect of that size"
        if seeds <= effect.seeds:
            return ""
        named = ", and name this look in --looks" if self.plan.trains else ""
        return f"; plan about {counted(seeds, 'seed')} in all to find one{named}"

    def _with_interval(self, effect: Effect) -> str:
        sure = f"{100 * effect.confidence:.3g} % interval"
        if self.plan.look is not None:
            sure = f"interval over all looks ({100 * effect.confidence:.4g} % at this one)"
        number = f"{self._difference(effect.mean, effect)}{self._unit} {self.metric.label}"
        return f"{number} ({sure} {self._interval(effect)}; {self._size(effect)})"

    @property
    def _unit(self) -> str:
        return f" {self.metric.unit}" if self.metric.unit else ""

    def _size(self, effect: Effect) -> str:
        if self.plan.folds:
            return self._trainings(effect)
        what = "image" if self.plan.groups is None else "group"
        return f"{_seeds(effect.seeds)} x {effect.images:,} {what}{'' if effect.images == 1 else 's'}"

    def _trainings(self, effect: Effect) -> str:
        """What the noise was seen in: seeds, or folds, of which some may have diverged."""
        folds, repeats = self.plan.folds, self.plan.repeats
        if not folds:
            return _seeds(effect.seeds)
        if effect.seeds < folds * repeats:
            return f"{effect.seeds} of {folds * repeats} folds"
        return f"{folds} folds x {repeats} repetition{'' if repeats == 1 else 's'}"

    def _interval(self, effect: Effect) -> str:
        return f"{self._difference(effect.low, effect)} to {self._difference(effect.high, effect)}"

    def _difference(self, value: float, interval: Effect | MarginVerdict) -> str:
        """With a sign and as many decimals as the interval deserves, fractions in points."""
        low, high = self.metric.scale * interval.low, self.metric.scale * interval.high
        if self.metric.unit == "points":
            nearly_zero = any(0 < abs(end) < 0.05 for end in (low, high))  # on which side is the end?
            return signed(self.metric.scale * value, 2 if high - low < 1 or nearly_zero else 1)
        return signed(value, decimals_for(high - low))

    def _plain(self, value: float) -> str:
        return f"{self.metric.scale * value:.4g}"


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


def _seeds(count: int) -> str:
    return counted(count, "seed")


def _moved_clause(moved: float) -> str:
    if moved >= HARDLY:
        return ""
    return (
        f"; the graft hardly moved (answers differ on {100 * moved:.2g} % of the images): try more epochs, a higher "
        "graft_lr_scale, or places earlier in the network"
    )
