"""From the answers of all runs to effects, verdicts and samples: no training, no files of models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..statistics.effects import Effect, crossed_effect, per_class_effects
from ..statistics.multiplicity import holm
from ..statistics.power import at_corrected_level, needed, smallest_detectable
from ..training import Evaluation
from .variants import BASELINE, Variant
from .verdicts import control_clause, judge

Answers = Mapping[str, Sequence[Evaluation]]  # variant name -> one evaluation per seed


def correct_matrix(evaluations: Sequence[Evaluation]) -> NDArray[np.float64]:
    """(S, N), 1 where the run of a seed got a test image right."""
    return np.stack([evaluation.correct.astype(np.float64) for evaluation in evaluations])


@dataclass(frozen=True)
class Contrast:
    """A variant against another, seed by seed and image by image."""

    variant: str
    against: str
    difference: NDArray[np.float64]
    effect: Effect


def contrast(answers: Answers, variant: str, against: str) -> Contrast:
    """The paired difference of two variants."""
    difference = correct_matrix(answers[variant]) - correct_matrix(answers[against])
    return Contrast(variant, against, difference, crossed_effect(difference))


def effects(
    variants: Sequence[Variant], answers: Answers, classes: Sequence[str], prices: Mapping[str, str]
) -> list[dict[str, Any]]:
    """All effects of a comparison as JSON values, in three families, within each of which p-values are corrected (Holm).

    Every variant against the baseline; attentions against controls; and what is trained dynamically against the same
    with a fixed pace, where both are there.

    Args:
        variants: the columns.
        answers: predictions of every run.
        classes: class names.
        prices: variant name -> what it costs, as the end of a sentence.
    """
    labels = answers[BASELINE][0].labels
    controls = [v.name for v in variants if v.role == "control"]
    attentions = [v.name for v in variants if v.role == "attention"]
    primary = [contrast(answers, name, BASELINE) for name in [*attentions, *controls]]
    grafted = [v.name for v in variants if v.role == "attention" and not v.is_again]
    secondary = [contrast(answers, name, control) for name in grafted for control in controls]
    beside = holm([c.effect.p_value for c in secondary])
    clauses: dict[str, str] = {}
    for item, p_adjusted in zip(secondary, beside, strict=True):
        clause = control_clause(item.variant, item.against, item.effect, p_adjusted)
        clauses[item.variant] = clauses.get(item.variant, "") + clause
    paced = [contrast(answers, name, fixed) for name, fixed in fixed_twins(variants)]
    found = []
    for family in (primary, secondary, paced):
        adjusted = holm([c.effect.p_value for c in family])
        for item, p_adjusted in zip(family, adjusted, strict=True):
            tail = clauses.get(item.variant, "") + prices.get(item.variant, "") if family is primary else ""
            found.append(_entry(item, p_adjusted, len(family), labels, classes, tail))
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


def _entry(
    item: Contrast,
    p_adjusted: float,
    comparisons: int,
    labels: NDArray[np.int64],
    classes: Sequence[str],
    tail: str,
) -> dict[str, Any]:
    verdict = judge(item.effect, p_adjusted, name=item.variant, against=item.against, comparisons=comparisons)
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
        "per_class": [effect.to_json() for effect in per_class_effects(item.difference, labels, classes)],
    }


@dataclass(frozen=True)
class Change:
    """A test image that a variant got right in more, or in fewer, seeds than the baseline."""

    variant: str
    position: int
    before: tuple[int, ...]
    after: tuple[int, ...]
    gain: int


def changed_images(variants: Sequence[Variant], answers: Answers, most: int = 6) -> list[Change]:
    """For each attention the images that changed most, at most so many in each direction."""
    found: list[Change] = []
    for variant in variants:
        if variant.role == "attention" and not variant.is_again:
            found += _changes_of(variant.name, answers, most)
    return found


def _changes_of(name: str, answers: Answers, most: int) -> list[Change]:
    gains = (correct_matrix(answers[name]) - correct_matrix(answers[BASELINE])).sum(axis=0)
    order = np.argsort(-gains, kind="stable")
    fixed = [int(i) for i in order[:most] if gains[i] > 0]
    broken = [int(i) for i in order[::-1][:most] if gains[i] < 0]
    return [
        Change(name, i, _guesses(answers[BASELINE], i), _guesses(answers[name], i), int(gains[i]))
        for i in fixed + broken
    ]


def _guesses(evaluations: Sequence[Evaluation], position: int) -> tuple[int, ...]:
    return tuple(int(evaluation.probabilities[position].argmax()) for evaluation in evaluations)
