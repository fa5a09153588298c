"""Sentences about an effect over several data sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import counted
from ..statistics.meta_analysis import FEWEST
from .analysis_plan import ALPHA
from .combined_record import DataSetEffect, PooledRecord
from .comparison_record import MetricRecord
from .verdicts import decimals_for, signed


@dataclass(frozen=True)
class PooledJudge:
    """Says what effects on several data sets allow to say.

    Attributes:
        metric: that the effects are of.
        variants: how many are corrected together.
    """

    metric: MetricRecord
    variants: int

    def verdict(
        self, name: str, effects: Sequence[DataSetEffect], pooled: PooledRecord | None, missing: Sequence[str] = ()
    ) -> tuple[str, str]:
        """The verdict in a word, and its sentence."""
        where = counted(len(effects), "data set")
        where += f" of {len(effects) + len(missing)}" if missing else ""
        diverged = [effect.data for effect in effects if effect.verdict == "diverged"]
        if diverged:
            return "diverged", f"{name} diverged on {', '.join(diverged)}, so nothing is claimed over {where}."
        if pooled is None:
            return "described", f"{name} on {where}: {self._listed(effects)}; {self._too_few(len(effects))}."
        numbers = self._numbers(pooled, effects)
        if pooled.p_adjusted <= ALPHA:
            verdict = "helps" if (pooled.mean > 0) is self.metric.higher_is_better else "hurts"
            return verdict, f"{name} {verdict} on average over {where}: {numbers}."
        start = f"no evidence that {name} helps or hurts on average over {where}: {numbers}"
        if pooled.p_value <= ALPHA:
            start += f"; its own interval excludes 0, but that does not count after correction for {counted(self.variants, 'variant')}"
        return "no evidence", f"{start}."

    def _numbers(self, pooled: PooledRecord, effects: Sequence[DataSetEffect]) -> str:
        width = pooled.high - pooled.low
        mean, low, high = (self._difference(value, width) for value in (pooled.mean, pooled.low, pooled.high))
        sd = self._difference(pooled.between_sd, width).lstrip("+")
        expected = " to ".join(self._difference(end, width) for end in (pooled.prediction_low, pooled.prediction_high))
        return (
            f"{mean}{self._unit} {self.metric.label} (95 % interval {low} to {high}; sd between data sets {sd}); "
            f"{tally(effects)}; on a further data set like these {expected} is expected (95 %)"
        )

    def _listed(self, effects: Sequence[DataSetEffect]) -> str:
        shown = [
            f"{self._difference(e.mean, e.high - e.low)} ({self._difference(e.low, e.high - e.low)} to "
            f"{self._difference(e.high, e.high - e.low)}) on {e.data}"
            for e in effects
        ]
        return f"{', '.join(shown)}, in{self._unit or ' units of'} {self.metric.label}"

    @staticmethod
    def _too_few(count: int) -> str:
        lacking = FEWEST - count
        return (
            f"so few only describe: with {lacking} more data set{'' if lacking == 1 else 's'} their spread can be estimated, "
            "and something said of others"
        )

    @property
    def _unit(self) -> str:
        return f" {self.metric.unit}" if self.metric.unit else ""

    def _difference(self, value: float, width: float) -> str:
        """With a sign, fractions in points, and as many decimals as an interval of this width deserves."""
        if self.metric.unit == "points":
            return signed(100 * value, 2 if width < 0.01 else 1)
        return signed(value, decimals_for(width))


def tally(effects: Sequence[DataSetEffect]) -> str:
    """How many data sets were won and lost.

    >>> tally([DataSetEffect("a", 0.1, 0.05, 0.15, 0.02, 3, "win", "helps")])
    '1 win, 0 ties, 0 losses'
    """
    outcomes = [effect.outcome for effect in effects]
    plurals = {"win": "wins", "tie": "ties", "loss": "losses"}
    counts = {word: sum(outcome == word for outcome in outcomes) for word in plurals}
    return ", ".join(f"{count} {word if count == 1 else plurals[word]}" for word, count in counts.items())
