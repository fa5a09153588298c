"""Compute effects and verdicts from the predictions of all runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..statistics.effects import Effect, crossed_effect, per_class_effects
from ..statistics.multiplicity import holm
from ..statistics.power import at_corrected_level, needed, smallest_detectable
from ..tasks import Metric, Task, primary
from ..training import Evaluation
from .variants import BASELINE, Variant
from .verdicts import Judge

Evaluations = Mapping[str, Sequence[Evaluation]]  # variant name -> one evaluation per seed


def score_matrix(evaluations: Sequence[Evaluation], metric: Metric) -> NDArray[np.float64]:
    """(S, N) scores of the test images, a row per seed."""
    return np.stack([metric.scores(evaluation.rows) for evaluation in evaluations])


@dataclass(frozen=True)
class Contrast:
    """A variant against another, seed by seed and image by image."""

    variant: str
    against: str
    difference: NDArray[np.float64]
    effect: Effect


class Contrasts:
    """Paired differences between the variants of a comparison.

    Args:
        evaluations: predictions of every run.
        metric: what they are compared by.
    """

    def __init__(self, evaluations: Evaluations, metric: Metric) -> None:
        self.metric = metric
        self.scores = {name: score_matrix(runs, metric) for name, runs in evaluations.items()}
        low, high = metric.bounds
        self.limit = high - low  # no difference can be larger

    def between(self, variant: str, against: str) -> Contrast:
        """The paired difference of two variants."""
        difference = self.scores[variant] - self.scores[against]
        return Contrast(variant, against, difference, crossed_effect(difference, limit=self.limit))


def effects(
    variants: Sequence[Variant], evaluations: Evaluations, task: Task, metric: Metric, prices: Mapping[str, str]
) -> list[dict[str, Any]]:
    """All effects of a comparison as JSON values, in three families, within each of which p-values are corrected (Holm).

    Every variant against the baseline; attentions against controls; and what is trained dynamically against the same
    with a fixed pace, where both are there.

    Args:
        variants: the columns.
        evaluations: predictions of every run.
        task: what was learned.
        metric: what the variants are compared by.
        prices: variant name -> what it costs, as the end of a sentence.
    """
    contrasts, judge = Contrasts(evaluations, metric), Judge(metric)
    controls = [v.name for v in variants if v.role == "control"]
    attentions = [v.name for v in variants if v.role == "attention"]
    main = [contrasts.between(name, BASELINE) for name in [*attentions, *controls]]
    grafted = [v.name for v in variants if v.role == "attention" and not v.is_again]
    beside = [contrasts.between(name, control) for name in grafted for control in controls]
    clauses: dict[str, str] = {}
    for item, p_adjusted in zip(beside, holm([c.effect.p_value for c in beside]), strict=True):
        clause = judge.control_clause(item.variant, item.against, item.effect, p_adjusted)
        clauses[item.variant] = clauses.get(item.variant, "") + clause
    paced = [contrasts.between(name, fixed) for name, fixed in fixed_twins(variants)]
    found = []
    for family in (main, beside, paced):
        adjusted = holm([c.effect.p_value for c in family])
        for item, p_adjusted in zip(family, adjusted, strict=True):
            tail = clauses.get(item.variant, "") + prices.get(item.variant, "") if family is main else ""
            entry = _entry(item, p_adjusted, len(family), judge, tail)
            groups = task.groups(evaluations[BASELINE][0].rows) if metric.name == primary(task).name else None
            per_class = () if groups is None else per_class_effects(item.difference, groups, task.outputs)
            found.append({**entry, "per_class": [effect.to_json() for effect in per_class]})
    return found


def fixed_twins(variants: Sequence[Variant]) -> list[tuple[str, str]]:
    """Names of each variant that is trained dynamically, and of the same one that is not."""
    grafted = [v for v in variants if not v.is_plain]
    return [
        (v.name, fixed.name)
        for v in grafted
        for fixed in grafted
        if v.is_dynamic and not fixed.is_dynamic and fixed.is_twin_of(v)
    ]


def _entry(item: Contrast, p_adjusted: float, comparisons: int, judge: Judge, tail: str) -> dict[str, Any]:
    verdict = judge.verdict(item.effect, p_adjusted, name=item.variant, against=item.against, comparisons=comparisons)
    strict = at_corrected_level(item.effect, comparisons)
    needs = needed(strict)
    return {
        "variant": item.variant,
        "against": item.against,
        **item.effect.to_json(),
        "p_adjusted": p_adjusted,
        "smallest_detectable": smallest_detectable(strict),
        "needed_seeds": needs.more_seeds,
        "needed_images": needs.images,
        "verdict": verdict.kind,
        "sentence": f"{verdict.sentence}{tail}.",
    }


@dataclass(frozen=True)
class Change:
    """A test image that a variant predicts better, or worse, than the baseline over the seeds.

    Attributes:
        variant: its name.
        position: of the image.
        before, after: predictions of the baseline and the variant, seed by seed.
        truth: what is right.
        gain: sum of the score's improvement over the seeds.
    """

    variant: str
    position: int
    before: tuple[str, ...]
    after: tuple[str, ...]
    truth: str
    gain: float


def changed_images(
    variants: Sequence[Variant], evaluations: Evaluations, task: Task, metric: Metric, most: int = 6
) -> list[Change]:
    """The images that changed most for each attention, at most `most` in each direction."""
    contrasts, sign = Contrasts(evaluations, metric), 1 if metric.higher_is_better else -1
    found: list[Change] = []
    for variant in variants:
        if variant.role == "attention" and not variant.is_again:
            gains = sign * contrasts.between(variant.name, BASELINE).difference.sum(axis=0)
            order = np.argsort(-gains, kind="stable")
            better = [int(i) for i in order[:most] if gains[i] > 0]
            worse = [int(i) for i in order[::-1][:most] if gains[i] < 0]
            found += [_change(variant.name, i, evaluations, task, float(gains[i])) for i in better + worse]
    return found


def _change(name: str, position: int, evaluations: Evaluations, task: Task, gain: float) -> Change:
    before = [task.caption(run.rows, position) for run in evaluations[BASELINE]]
    after = [task.caption(run.rows, position) for run in evaluations[name]]
    truth = before[0][1]
    return Change(name, position, tuple(p for p, _ in before), tuple(p for p, _ in after), truth, gain)
