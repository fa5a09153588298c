"""Effects under corruptions of the test images, paired as the verdicts are, in a family of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.corruptions import CORRUPTIONS, corrupted
from ..errors import ConfigError
from ..statistics.effects import crossed_effect
from ..statistics.multiplicity import holm
from ..surgery import load
from ..training import Evaluation, EvaluationContext, evaluate
from .analysis_plan import ALPHA
from .comparison_context import ComparisonContext
from .run_all import Results
from .variants import BASELINE, Variant
from .verdicts import Judge

SEVERITY = 3
SHARE = 0.02  # error rate of the family, so that it and the verdicts' 5 % together stay at 7 %
Scores = Mapping[str, Mapping[int, NDArray[np.float64]]]  # variant -> seed -> (N,) means over the corruptions


def check_corruptible(channels: int) -> None:
    """Raise ConfigError for images that the corruptions are not defined for."""
    if channels != 3:
        raise ConfigError(f"robustness is measured on RGB images: these have {channels} channels, so leave it out.")


def robustness(context: ComparisonContext, variants: Sequence[Variant], results: Results) -> dict[str, Any]:
    """The effect of every variant on the metric, averaged over eight corruptions at severity 3.

    Args:
        context: of the comparison.
        variants: the columns.
        results: of the runs, whose models are read from the disk.

    Returns:
        JSON values: "severity", "corruptions", "values" (variant -> seed by seed) and "effects".
    """
    values, scores = _under_corruptions(context, results)
    judge, limit = Judge(context.analysis), context.analysis.limit
    pairs = []
    for variant in variants[1:]:
        seeds = [seed for seed in scores[BASELINE] if seed in scores[variant.name]]
        if len(seeds) > 1:
            matrix = np.stack([scores[variant.name][seed] - scores[BASELINE][seed] for seed in seeds])
            pairs.append((variant.name, crossed_effect(matrix, confidence=1 - SHARE, limit=limit)))
    adjusted = holm([effect.p_value for _, effect in pairs])
    entries = []
    for (name, effect), p in zip(pairs, adjusted, strict=True):
        p_adjusted = min(1.0, p * ALPHA / SHARE)  # to be compared with 0.05, as all others
        verdict = judge.verdict(effect, p_adjusted, name=f"{name} under corruptions", comparisons=len(pairs))
        entries.append(
            {
                "variant": name,
                **effect.to_json(),
                "p_adjusted": p_adjusted,
                "verdict": verdict.kind,
                "sentence": f"{verdict.sentence}.",
            }
        )
    return {"severity": SEVERITY, "corruptions": list(CORRUPTIONS), "values": values, "effects": entries}


def _under_corruptions(context: ComparisonContext, results: Results) -> tuple[dict[str, list[float]], Scores]:
    """Value of the metric for each run, and scores of each image, means over the corruptions."""
    sums: dict[str, dict[int, list[Any]]] = {
        name: {seed: [] for seed in runs} for name, runs in results.finished.items()
    }
    for corruption in CORRUPTIONS:
        images = replace(corrupted(context.dataset.test, corruption, SEVERITY), groups=context.dataset.test.groups)
        for name, runs in results.finished.items():
            for seed, run in runs.items():
                sums[name][seed].append(_evaluated(context, run.run_dir, images))
    metric, plan = context.metric, context.analysis
    values = {
        name: [float(np.mean([found.value(metric.name) for found in runs[seed]])) for seed in runs]
        for name, runs in sums.items()
    }
    scores = {
        name: {seed: np.mean([plan.scores(found.rows) for found in runs[seed]], axis=0) for seed in runs}
        for name, runs in sums.items()
    }
    return values, scores


def _evaluated(context: ComparisonContext, run_dir: Any, images: Any) -> Evaluation:
    model = load(run_dir).to(context.device)
    chosen = EvaluationContext.of(
        model, precision=context.precision, workers=context.settings.machine.resolve_workers()
    )
    return evaluate(model, images, chosen)
