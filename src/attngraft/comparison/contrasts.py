"""Compute effects and verdicts from the predictions of all runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..statistics.effects import Effect, crossed_effect
from ..statistics.groups import by_group
from ..statistics.multiplicity import gated, holm
from ..statistics.power import smallest_detectable
from ..tasks import Task, primary
from ..training import Evaluation
from .analysis_plan import AnalysisPlan
from .variants import BASELINE, Variant, baseline_of, first_family
from .verdicts import Judge

Evaluations = Mapping[str, Mapping[int, Evaluation]]  # variant name -> seed -> evaluation of the run, where it ended


@dataclass(frozen=True)
class Contrast:
    """A variant against another, seed by seed and image by image.

    Attributes:
        seeds: in which both ended.
        difference: (S, N) over these seeds and the images, or groups of images.
        effect: with the interval that the plan gives it.
    """

    variant: str
    against: str
    seeds: tuple[int, ...]
    difference: NDArray[np.float64]
    effect: Effect


class Contrasts:
    """Paired differences between the variants of a comparison.

    Args:
        evaluations: predictions of every run.
        plan: how they are analysed.
    """

    def __init__(self, evaluations: Evaluations, plan: AnalysisPlan) -> None:
        self.plan = plan
        self.scores = {
            name: {seed: plan.scores(evaluation.rows) for seed, evaluation in runs.items()}
            for name, runs in evaluations.items()
        }

    def matrix(self, variant: str, seeds: Sequence[int]) -> NDArray[np.float64]:
        """(S, N) scores of a variant, a row per seed."""
        return np.stack([self.scores[variant][seed] for seed in seeds])

    def seeds(self, *variants: str) -> tuple[int, ...]:
        """The seeds in which all of these ended, in their order."""
        return tuple(s for s in self.scores[variants[0]] if all(s in self.scores[name] for name in variants[1:]))

    def between(self, variant: str, against: str, comparisons: int = 1) -> Contrast:
        """The paired difference of two variants, which have a seed in common."""
        seeds = self.seeds(variant, against)
        difference = self.matrix(variant, seeds) - self.matrix(against, seeds)
        return Contrast(variant, against, seeds, difference, self.plan.effect(difference, comparisons))


@dataclass(frozen=True)
class Families:
    """The contrasts of a comparison by the question that they answer.

    Attributes:
        primary: attentions against the baseline; the controls, where there are no attentions.
        controls: controls against the baseline.
        beyond: attentions against controls.
        paced: what is trained dynamically against the same with a fixed pace.
    """

    primary: tuple[Contrast, ...]
    controls: tuple[Contrast, ...]
    beyond: tuple[Contrast, ...]
    paced: tuple[Contrast, ...]

    @classmethod
    def of(cls, variants: Sequence[Variant], contrasts: Contrasts) -> Families:
        """Every pair of variants that is compared; without those that have no seed in common."""
        controls = [v.name for v in variants if v.role == "control"]
        attentions = [v.name for v in variants if v.role == "attention"]
        grafted = [v.name for v in variants if v.role == "attention" and not v.is_again]

        def pairs(names: Sequence[tuple[str, str]], comparisons: int = 1) -> tuple[Contrast, ...]:
            paired = [(a, b) for a, b in names if len(contrasts.seeds(a, b)) >= contrasts.plan.fewest]
            return tuple(contrasts.between(a, b, comparisons) for a, b in paired)

        first, baseline = first_family(variants), baseline_of(variants)
        return cls(
            primary=pairs([(name, baseline) for name in first], len(first)),
            controls=pairs([(name, baseline) for name in controls]) if attentions else (),
            beyond=pairs([(name, control) for name in grafted for control in controls]),
            paced=pairs(fixed_twins(variants)),
        )


def effects(
    variants: Sequence[Variant],
    evaluations: Evaluations,
    task: Task,
    plan: AnalysisPlan,
    prices: Mapping[str, str],
    failures: Mapping[str, Sequence[int]] | None = None,
) -> list[dict[str, Any]]:
    """All effects of a comparison as JSON values.

    The attentions against the baseline are the first family (Holm; with planned looks, equal parts of alpha). Everything
    else is tested only where that opened it: controls once an attention has passed, an attention against the controls,
    its fixed twin and by class once it has passed itself. Under no effect at all the whole report therefore raises a
    false alarm no more often than its first family.

    Args:
        variants: the columns.
        evaluations: predictions of every run.
        task: what was learned.
        plan: how they are analysed.
        prices: variant name -> what it costs, as the end of a sentence.
        failures: variant name -> seeds whose run diverged.
    """
    contrasts, judge, baseline = Contrasts(evaluations, plan), Judge(plan), baseline_of(variants)
    families = Families.of(variants, contrasts)
    passed = dict(zip((c.variant for c in families.primary), _first_family(families.primary, plan), strict=True))
    opened = min(passed.values(), default=1.0)

    def later(family: Sequence[Contrast], gates: Sequence[float]) -> list[tuple[Contrast, float]]:
        return list(zip(family, gated([c.effect.p_value for c in family], gates), strict=True))

    own_gates = [[passed.get(c.variant, 1.0) for c in family] for family in (families.beyond, families.paced)]
    beyond, paced = (later(f, g) for f, g in zip((families.beyond, families.paced), own_gates, strict=True))
    clauses: dict[str, str] = {}
    for item, p_adjusted in beyond:
        clause = judge.control_clause(item.variant, item.against, item.effect, p_adjusted)
        clauses[item.variant] = clauses.get(item.variant, "") + clause
    told = [
        *((c, passed[c.variant], len(families.primary), False) for c in families.primary),
        *((c, p, len(families.controls), True) for c, p in later(families.controls, [opened] * len(families.controls))),
        *((c, p, len(beyond), True) for c, p in beyond),
        *((c, p, len(paced), True) for c, p in paced),
    ]
    by_class = _class_effects([c for c, *_ in told if c.against == baseline], passed, evaluations, task, plan)
    grafted, found = {variant.name for variant in variants if not variant.is_plain}, []
    for item, p_adjusted, comparisons, is_gated in told:
        is_main = item.against == baseline
        tail = clauses.get(item.variant, "") + prices.get(item.variant, "") if is_main else ""
        failed = tuple((failures or {}).get(item.variant, ()))
        about: Any = {"is_main": is_main, "is_gated": is_gated, "has_graft": item.variant in grafted, "failed": failed}
        entry = _entry(item, p_adjusted, comparisons, judge, tail, evaluations, task, **about)
        found.append({**entry, "per_class": by_class.get(item.variant, []) if is_main else []})
    return found


def _first_family(family: Sequence[Contrast], plan: AnalysisPlan) -> tuple[float, ...]:
    p_values = [contrast.effect.p_value for contrast in family]
    at_look = plan.adjusted(p_values)
    return holm(p_values) if at_look is None else at_look


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
    judge: Judge,
    tail: str,
    evaluations: Evaluations,
    task: Task,
    *,
    is_main: bool,
    is_gated: bool,
    has_graft: bool,
    failed: tuple[int, ...],
) -> dict[str, Any]:
    plan, base = judge.plan, evaluations[item.against]
    left = plan.metric.left(float(np.mean([base[seed].value(plan.metric.name) for seed in item.seeds])))
    moved = answers_differ(evaluations[item.variant], base, item.seeds, task)
    margin = plan.margin_verdict(item.difference, comparisons) if is_main else None
    verdict = judge.verdict(
        item.effect,
        p_adjusted,
        name=item.variant,
        against=BASELINE if is_main else item.against,
        comparisons=comparisons,
        left=left,
        moved=moved if is_main and has_graft else 1.0,
        margin=margin,
        failed=failed,
        is_gated=is_gated,
    )
    detectable = smallest_detectable(judge.forecast_effect(item.effect, comparisons), limit=left)
    return {
        "variant": item.variant,
        "against": item.against,
        **item.effect.to_json(),
        "p_adjusted": p_adjusted,
        "smallest_detectable": detectable.size,
        "detectable_low": detectable.low,
        "detectable_high": detectable.high,
        "seed_effects": [float(value) for value in item.difference.mean(1)],
        "paired_seeds": list(item.seeds),
        "answers_differ": moved,
        **({"failed_seeds": list(failed)} if failed else {}),
        **({"margin": asdict(margin)} if margin else {}),
        "verdict": verdict.kind,
        "sentence": f"{verdict.sentence}{tail}.",
    }


def answers_differ(
    runs: Mapping[int, Evaluation], base: Mapping[int, Evaluation], seeds: Sequence[int], task: Task
) -> float:
    """Part of the test images on which two variants answer differently, the mean over these seeds."""
    return float(np.mean([_differing(runs[seed], base[seed], task) for seed in seeds]))


def _differing(one: Evaluation, other: Evaluation, task: Task) -> float:
    images = len(one.ids)
    return sum(task.caption(one.rows, i)[0] != task.caption(other.rows, i)[0] for i in range(images)) / images


def _class_effects(
    contrasts: Sequence[Contrast], gates: Mapping[str, float], evaluations: Evaluations, task: Task, plan: AnalysisPlan
) -> dict[str, list[dict[str, Any]]]:
    """Effects on the classes of the primary metric; Holm over variants and classes together, after each variant."""
    if not contrasts or plan.folds:
        return {}
    rows = next(iter(evaluations[contrasts[0].against].values())).rows
    labels = task.groups(rows) if plan.metric.name == primary(task).name else None
    if labels is None or not plan.metric.is_mean:
        return {}
    found: list[tuple[str, int, int, Effect]] = []
    for contrast in contrasts:
        of_images = _per_image(contrast, evaluations, plan)
        for index in np.unique(labels).tolist():
            mine = labels == index
            difference = of_images[:, mine]
            if plan.groups is not None:
                difference = by_group(difference, plan.groups[mine])
            effect = crossed_effect(difference, limit=plan.limit)
            found.append((contrast.variant, int(index), int(mine.sum()), effect))
    adjusted = gated([effect.p_value for *_, effect in found], [gates.get(name, 1.0) for name, *_ in found])
    entries: dict[str, list[dict[str, Any]]] = {}
    for (name, index, images, effect), p_adjusted in zip(found, adjusted, strict=True):
        numbers = {"mean": effect.mean, "low": effect.low, "high": effect.high, "p_adjusted": p_adjusted}
        entries.setdefault(name, []).append({"class": task.outputs[index], "images": images, **numbers})
    return entries


def _per_image(contrast: Contrast, evaluations: Evaluations, plan: AnalysisPlan) -> NDArray[np.float64]:
    if plan.groups is None:
        return contrast.difference
    ungrouped = Contrasts(
        {name: evaluations[name] for name in (contrast.variant, contrast.against)}, replace(plan, groups=None)
    )
    return ungrouped.between(contrast.variant, contrast.against).difference


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
    variants: Sequence[Variant], evaluations: Evaluations, task: Task, plan: AnalysisPlan, most: int = 6
) -> list[Change]:
    """The images that changed most for each attention, at most `most` in each direction."""
    if plan.folds:
        return []
    contrasts = Contrasts(evaluations, replace(plan, groups=None))
    sign, baseline = 1 if plan.metric.higher_is_better else -1, baseline_of(variants)
    found: list[Change] = []
    for variant in variants:
        seeds = contrasts.seeds(variant.name, baseline)
        if variant.role == "attention" and not variant.is_again and seeds:
            difference = contrasts.matrix(variant.name, seeds) - contrasts.matrix(baseline, seeds)
            gains = sign * difference.sum(axis=0)
            order = np.argsort(-gains, kind="stable")
            better = [int(i) for i in order[:most] if gains[i] > 0]
            worse = [int(i) for i in order[::-1][:most] if gains[i] < 0]
            pair = {name: evaluations[name] for name in (baseline, variant.name)}
            found += [_change(variant.name, i, seeds, pair, task, float(gains[i])) for i in better + worse]
    return found


def _change(name: str, position: int, seeds: Sequence[int], pair: Evaluations, task: Task, gain: float) -> Change:
    """Of a variant, in a pair of the baseline and itself."""
    base = next(iter(pair.values()))
    before = [task.caption(base[seed].rows, position) for seed in seeds]
    after = [task.caption(pair[name][seed].rows, position) for seed in seeds]
    truth = before[0][1]
    return Change(name, position, tuple(p for p, _ in before), tuple(p for p, _ in after), truth, gain)
