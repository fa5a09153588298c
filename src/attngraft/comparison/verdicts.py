"""What an effect allows to say, in sentences for engineers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..statistics.effects import Effect
from ..statistics.power import Needed, at_corrected_level, needed, smallest_detectable

Kind = Literal["helps", "hurts", "no evidence", "one seed"]


@dataclass(frozen=True)
class Verdict:
    """One of four kinds, and the sentence that says so with its numbers."""

    kind: Kind
    sentence: str


def judge(
    effect: Effect,
    p_adjusted: float | None = None,
    *,
    name: str,
    against: str = "none",
    comparisons: int = 1,
    power: float = 0.8,
) -> Verdict:
    """What the effect allows to say about a variant.

    Args:
        effect: of the variant minus what it is compared with.
        p_adjusted: Holm's p-value over all comparisons; the effect's own where there is one comparison.
        name: the variant.
        against: what it is compared with.
        comparisons: how many p-values were corrected together, for the sentence.
        power: of the smallest detectable effect.
    """
    significance = 1 - effect.confidence
    p_value = effect.p_value if p_adjusted is None else max(p_adjusted, effect.p_value)
    versus = "" if against == "none" else f" against '{against}'"
    if not effect.seed_variance_known:
        return Verdict("one seed", _one_seed_sentence(effect, name, versus))
    if p_value <= significance and effect.mean != 0:
        kind: Kind = "helps" if effect.mean > 0 else "hurts"
        return Verdict(kind, f"{name} {kind}{versus}: {_points_with_interval(effect)}")
    return Verdict("no evidence", _no_evidence_sentence(effect, name, versus, comparisons, power))


def control_clause(
    attention_name: str, control_name: str, effect_of_difference: Effect, p_adjusted: float | None = None
) -> str:
    """Whether the attention does more than a control, as the end of a sentence.

    Args:
        attention_name: the attention.
        control_name: the control, for example "static".
        effect_of_difference: of the attention minus the control.
        p_adjusted: its p-value after correction, where several controls or attentions were tried.
    """
    effect, control = effect_of_difference, f"the control '{control_name}'"
    numbers = f"difference {_points(effect.mean, effect)}, {_range(effect)}"
    if not effect.seed_variance_known:
        return f"; one seed cannot say whether {attention_name} goes beyond {control} ({numbers})"
    sure = p_adjusted is None or p_adjusted <= 1 - effect.confidence
    if effect.low > 0 and sure:
        return f"; this is beyond {control} ({numbers})"
    if effect.high < 0 and sure:
        return f"; {control} does better ({numbers})"
    if max(abs(effect.low), abs(effect.high)) <= 0.01 + 1e-9:
        return f"; {control} does as well ({numbers})"
    return f"; {attention_name} is not shown to go beyond {control} ({numbers})"


def non_inferiority_clause(effect: Effect, margin: float = 0.01) -> str:
    """What the interval excludes at a margin worth caring about; empty where it excludes nothing."""
    if not effect.seed_variance_known or effect.method == "one image":
        return ""
    worth = f"{100 * margin:.3g} point{'' if margin == 0.01 else 's'}"
    if effect.low > -margin and effect.high < margin:
        return f"; a gain or a loss of {worth} or more is unlikely"
    if effect.low > -margin:
        return f"; a loss of {worth} or more is unlikely"
    if effect.high < margin:
        return f"; a gain of {worth} or more is unlikely"
    return ""


def _one_seed_sentence(effect: Effect, name: str, versus: str) -> str:
    return (
        f"one seed cannot say whether {name} helps or hurts{versus}: {_points_with_interval(effect)}; this interval "
        "knows nothing of the spread between training runs, so add seeds (3 or more)"
    )


def _no_evidence_sentence(effect: Effect, name: str, versus: str, comparisons: int, power: float) -> str:
    if effect.method == "no variation" and effect.mean == 0:
        return (
            f"no evidence that {name} helps or hurts{versus}: both are right on the same images in every seed "
            f"({_size(effect)}); a true effect beyond {_points(effect.high, effect)} points either way is unlikely"
        )
    start = f"no evidence that {name} helps or hurts{versus}: {_points_with_interval(effect)}"
    if effect.p_value <= 1 - effect.confidence:
        start += f"; its own interval excludes 0, but not after correction for {comparisons} comparisons"
    strict = at_corrected_level(effect, comparisons)
    start += _detectable_clause(strict, power)
    return start + _settling(needed(strict, power), effect) + non_inferiority_clause(effect)


def _detectable_clause(effect: Effect, power: float) -> str:
    smallest = smallest_detectable(effect, power)
    if smallest >= 1:
        return "; a comparison this small can see no effect at all"
    seen = _points(smallest, effect).lstrip("+")
    return f"; this comparison could have seen an effect of {seen} points or more ({100 * power:.0f} % power)"


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


def _points_with_interval(effect: Effect) -> str:
    sure = f"{100 * effect.confidence:g} % interval"
    return f"{_points(effect.mean, effect)} points top-1 ({sure} {_range(effect)}; {_size(effect)})"


def _size(effect: Effect) -> str:
    seeds, images = ("" if count == 1 else "s" for count in (effect.seeds, effect.images))
    return f"{effect.seeds} seed{seeds} x {effect.images:,} image{images}"


def _range(effect: Effect) -> str:
    return f"{_points(effect.low, effect)} to {_points(effect.high, effect)}"


def _points(fraction: float, effect: Effect) -> str:
    """In points with a sign, with as many decimals as the interval deserves."""
    narrow = effect.high - effect.low < 0.01
    nearly_zero = any(0 < abs(end) < 0.0005 for end in (effect.low, effect.high))  # on which side is the end?
    decimals = 2 if narrow or nearly_zero else 1
    text = f"{100 * fraction:+.{decimals}f}"
    return text.lstrip("+-") if float(text) == 0 else text


def _rounded_up(count: int) -> int:
    step = 10 ** max(len(str(count)) - 2, 0)
    return -(-count // step) * step
