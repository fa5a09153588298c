"""The table of a comparison: scores over seeds, and costs, per variant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

import torch
from torch import nn

from ..costs import (
    LATENCY_BATCH,
    Latency,
    count_macs,
    count_parameters,
    is_busy,
    measure_latency,
)
from ..errors import counted
from ..surgery import load
from ..training import FitResult
from .comparison_context import ComparisonContext
from .run_all import Results
from .variants import BASELINE, Variant


def variant_table(
    context: ComparisonContext,
    variants: Sequence[Variant],
    seeds: Sequence[int],
    results: Results,
) -> list[dict[str, Any]]:
    """One JSON object per variant, the baseline first."""
    models = {variant.name: _model(context, variant, seeds, results) for variant in variants}
    latencies = _latencies(context, {v.name: models[v.name] for v in variants if not v.is_again})
    rows = [
        _row(context, v, models[v.name], results.finished[v.name], latencies[BASELINE if v.is_again else v.name])
        for v in variants
    ]
    base = rows[0]
    for row in rows:
        row["parameters_added"] = row["parameters"] - base["parameters"]
        row["macs_added"] = row["macs"] - base["macs"]
    return rows


def _model(context: ComparisonContext, variant: Variant, seeds: Sequence[int], results: Results) -> nn.Module:
    """A trained model of the variant; an untrained one where all of its runs diverged."""
    for seed in results.finished[variant.name]:
        return load(context.run_dir(variant, seed))
    return context.build(variant, seeds[0])


def _row(
    context: ComparisonContext, variant: Variant, model: nn.Module, runs: Mapping[int, FitResult], latency: Latency
) -> dict[str, Any]:
    """One variant: its scores over the seeds, and what it costs."""
    name, plan = context.metric.name, context.plans[variant.name]
    scores = [run.evaluation.value(name) for run in runs.values()]
    means = {f"{name}_mean": sum(scores) / len(scores)} if scores else {}
    loss = {"loss_mean": sum(run.evaluation.loss for run in runs.values()) / len(runs)} if runs else {}
    return {
        "name": variant.name,
        "slug": variant.slug,
        "role": variant.role,
        f"{name}_per_seed": scores,
        **means,
        **loss,
        "parameters": count_parameters(model),
        "macs": count_macs(model, context.preprocessing.input.shape),
        "latency_ms": asdict(latency),
        "train_time_s": [run.train_time_s for run in runs.values()],
        "sites": len(plan.sites) if plan else 0,
        "plan": plan.to_dict() if plan else None,
        "runs": [context.run_dir(variant, seed).relative_to(context.folder).as_posix() for seed in runs],
    }


def _latencies(context: ComparisonContext, models: Mapping[str, nn.Module]) -> dict[str, Latency]:
    """Latency of every variant, measured side by side in the comparison's precision."""
    layout = context.precision.memory_format
    placed = {name: model.to(context.device).to(memory_format=layout) for name, model in models.items()}
    shape = context.preprocessing.input.shape
    example = torch.zeros(LATENCY_BATCH, *shape, device=context.device).to(memory_format=layout)
    with context.precision.autocast(context.device):
        return measure_latency(placed, example)


def price(row: Mapping[str, Any], base: Mapping[str, Any]) -> str:
    """What a variant costs, as the end of a sentence."""
    changed = row["sites"] or row["parameters_added"] or row["role"] == "control"
    if not changed or not row["train_time_s"] or not base["train_time_s"]:
        return ""
    parameters = 100 * row["parameters_added"] / base["parameters"]
    macs = 100 * row["macs_added"] / base["macs"]
    latency = 100 * (row["latency_ms"]["median"] / base["latency_ms"]["median"] - 1)
    training = 100 * (median(row["train_time_s"]) / median(base["train_time_s"]) - 1)
    same = "" if row["role"] == "control" and not row["sites"] else " for the same epochs"
    where = f" at {counted(row['sites'], 'site')}" if row["sites"] else ""
    timed = [Latency(**each["latency_ms"]) for each in (row, base)]
    unsure = " (times are uncertain: the machine was busy)" if is_busy(*timed) else ""
    return (
        f"; its price{where}: {parameters:+.1f} % parameters, {macs:+.1f} % multiply-accumulates, "
        f"{latency:+.0f} % latency, {training:+.0f} % training time{same}{unsure}"
    )
