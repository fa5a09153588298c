"""Effects under corruptions of the test images, paired as the verdicts are, in a family of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from ..checksums import file_hash
from ..data.corruptions import CORRUPTIONS, corrupted
from ..errors import ConfigError
from ..files import write_atomically
from ..statistics.multiplicity import holm
from ..surgery import load
from ..surgery.serialization import MODEL_FILE
from ..training import Evaluation, EvaluationContext, FitResult, evaluate
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
    plan = context.analysis
    judge = Judge(plan)
    pairs = []
    for variant in variants[1:]:
        seeds = [seed for seed in scores[BASELINE] if seed in scores[variant.name]]
        if len(seeds) > 1:
            matrix = np.stack([scores[variant.name][seed] - scores[BASELINE][seed] for seed in seeds])
            level = plan.level(len(variants) - 1, SHARE)
            pairs.append((variant.name, plan.interval(matrix, 1 - level)))
    p_values = [effect.p_value for _, effect in pairs]
    adjusted = plan.adjusted(p_values, SHARE)
    entries = []
    for (name, effect), p in zip(pairs, adjusted or holm(p_values), strict=True):
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


@dataclass(frozen=True)
class _Measured:
    """One run under all corruptions.

    Attributes:
        value: mean of the metric over the corruptions.
        scores: (N,) of the images, or (C,) of their groups: means over the corruptions.
    """

    value: float
    scores: NDArray[np.float64]


def _file(context: ComparisonContext, run: FitResult) -> Path:
    """Where the scores of a run are kept, so that a comparison that goes on measures only what is new."""
    slug, seed = run.run_dir.parent.name, run.run_dir.name
    return context.folder / "robustness" / slug / f"{seed}.safetensors"


def _key(context: ComparisonContext, run: FitResult) -> str:
    """What the scores depend on: the trained weights, the images, the metric and the groups."""
    groups = "" if context.analysis.groups is None else str(context.dataset.grouped_by)
    parts = (
        file_hash(run.run_dir / MODEL_FILE),
        context.dataset.fingerprint,
        context.metric.name,
        groups,
        str(SEVERITY),
    )
    return " ".join(parts)


def _kept(file: Path, key: str) -> _Measured | None:
    """What was measured before; None where it was not, or the file is damaged or of something else."""
    try:
        with safe_open(file, framework="np") as stored:
            if (stored.metadata() or {}).get("key") != key:
                return None
            return _Measured(float(stored.get_tensor("value")[0]), stored.get_tensor("scores"))
    except Exception:  # whatever a damaged file raises: it is measured again
        return None


def _keep(file: Path, key: str, measured: _Measured) -> None:
    arrays = {"value": np.array([measured.value]), "scores": np.ascontiguousarray(measured.scores)}
    write_atomically(file, lambda temporary: save_file(arrays, temporary, metadata={"key": key}))


def _under_corruptions(context: ComparisonContext, results: Results) -> tuple[dict[str, list[float]], Scores]:
    """Value of the metric for each run, and scores of each image, means over the corruptions."""
    runs = [(name, seed, run) for name, found in results.finished.items() for seed, run in found.items()]
    known = {(name, seed): _kept(_file(context, run), _key(context, run)) for name, seed, run in runs}
    missing = [(name, seed, run) for name, seed, run in runs if known[name, seed] is None]
    evaluations: dict[tuple[str, int], list[Evaluation]] = {(name, seed): [] for name, seed, _ in missing}
    for corruption in CORRUPTIONS if missing else ():
        images = corrupted(context.dataset.test, corruption, SEVERITY)
        for name, seed, run in missing:
            evaluations[name, seed].append(_evaluated(context, run.run_dir, images))
    for name, seed, run in missing:
        found = evaluations[name, seed]
        value = float(np.mean([evaluation.value(context.metric.name) for evaluation in found]))
        scores = np.mean([context.analysis.scores(evaluation.rows) for evaluation in found], axis=0)
        known[name, seed] = _Measured(value, scores)
        _keep(_file(context, run), _key(context, run), _Measured(value, scores))
    measured = {key: found for key, found in known.items() if found is not None}
    names = results.finished
    return (
        {name: [measured[name, seed].value for seed in names[name]] for name in names},
        {name: {seed: measured[name, seed].scores for seed in names[name]} for name in names},
    )


def _evaluated(context: ComparisonContext, run_dir: Any, images: Any) -> Evaluation:
    model = load(run_dir).to(context.device)
    chosen = EvaluationContext.of(
        model, precision=context.precision, workers=context.settings.machine.resolve_workers()
    )
    return evaluate(model, images, chosen)
