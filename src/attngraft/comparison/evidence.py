"""What attention was worth in the project's own comparisons, and what that recommends."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources

from ..config import from_dict
from ..errors import counted

PAGE = "docs/evidence.md"
LEVEL = 0.05


@dataclass(frozen=True)
class MeanEffect:
    """The effect of an attention on top-1 accuracy, as a mean over data sets.

    Attributes:
        variant: attention and placement, as users write it.
        mean, low, high: fractions; the ends of the 95 % interval.
        p_adjusted: corrected over the variants of the regime.
        training_time: that of the plain network is 1.
    """

    variant: str
    mean: float
    low: float
    high: float
    p_adjusted: float
    training_time: float | None = None

    @property
    def is_gain(self) -> bool:
        return self.low > 0 and self.p_adjusted < LEVEL

    def __str__(self) -> str:
        mean, low, high = (f"{100 * value:+.1f}".replace("-0.0", "0.0") for value in (self.mean, self.low, self.high))
        return f"{self.variant} {mean} points top-1 (95 % interval {low} to {high})"


@dataclass(frozen=True)
class Regime:
    """A way of training that attentions were compared in.

    Attributes:
        title: for people, to follow "when".
        pretrained: whether the plain network starts from published weights.
        most_parameters: of the networks that it speaks for; None for any.
        data_sets: by name.
        seeds: on each.
    """

    title: str
    pretrained: bool
    most_parameters: int | None
    data_sets: tuple[str, ...]
    seeds: int
    effects: tuple[MeanEffect, ...]

    @property
    def recommended(self) -> MeanEffect | None:
        """The attention with the largest gain; None where none gained, so that the plain network is recommended."""
        return max((effect for effect in self.effects if effect.is_gain), key=lambda effect: effect.mean, default=None)

    def __str__(self) -> str:
        best = self.recommended
        measured = f"{counted(len(self.data_sets), 'data set')}, {counted(self.seeds, 'seed')} each: {PAGE}"
        if best is not None:
            price = "" if best.training_time is None else f", {best.training_time:.2f} times the training time"
            return f"recommended when {self.title}: {best}{price} ({measured})."
        best = max(self.effects, key=lambda effect: effect.mean)
        return f"recommended when {self.title}: no attention, as none gained; the best was {best} ({measured})."


@cache
def regimes() -> tuple[Regime, ...]:
    """Every regime that was measured, the most specific first; `benchmarks/atlas.py` writes the file."""
    text = resources.files(__package__).joinpath("evidence.json").read_text(encoding="utf-8")
    return tuple(from_dict(Regime, regime, where="evidence.json") for regime in json.loads(text)["regimes"])


def evidence_for(parameters: int, *, pretrained: bool) -> Regime | None:
    """The regime that a training belongs to; None where nothing like it was measured.

    Args:
        parameters: of the plain network.
        pretrained: whether it starts from published weights.
    """
    for regime in regimes():
        fits = regime.most_parameters is None or parameters <= regime.most_parameters
        if fits and regime.pretrained == pretrained:
            return regime
    return None
