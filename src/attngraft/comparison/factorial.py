"""The 2 x 2 design of channel and spatial gates: main effects and interaction.

Switching a half of a trained network off says what that network rests on; training without it says what it is needed
for, as what remains can make up for what is missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..attention import attention_options
from ..attention.cbam_channel import parse_poolings
from ..statistics.effects import Effect
from ..statistics.multiplicity import gated
from .analysis_plan import AnalysisPlan
from .contrasts import Contrasts, Evaluations
from .variants import BASELINE, Variant

BOTH, CHANNEL, SPATIAL = "cbam", "cbam-channel", "cbam-spatial"
EFFECTS = ("channel", "spatial", "interaction")


class Square(NamedTuple):
    """Four variants that differ in which halves they have, and in nothing else."""

    none: Variant
    channel: Variant
    spatial: Variant
    both: Variant


def factorial(
    variants: Sequence[Variant], evaluations: Evaluations, plan: AnalysisPlan, effects: Sequence[Mapping[str, Any]]
) -> dict[str, Any] | None:
    """Main effects and interaction of the halves, from the first complete square among the variants.

    The main effect of a half is what it adds on average over networks without and with the other half; the
    interaction is what both add together beyond the sum of what each adds alone. All are paired by seed and image, with
    crossed intervals. Their p-values are corrected over all effects of all squares (Holm), and count only where a
    variant of the square has an effect itself.

    Args:
        variants: the columns of a comparison.
        evaluations: predictions of every run.
        plan: how they are analysed.
        effects: of the variants against the baseline, as JSON values.

    Returns:
        JSON values: "channel", "spatial" and "interaction" with mean, low, high, ...; "cells" with the mean score of
        "none", "channel", "spatial" and "both"; their "variants" by name; and in "others" further squares of the same
        shape, for other orders, options or places. None without a complete square.
    """
    contrasts = Contrasts(evaluations, plan)
    passed = {e["variant"]: e["p_adjusted"] for e in effects if e["against"] == BASELINE}
    kept = [square for square in squares(variants) if len(contrasts.seeds(*(v.name for v in square))) >= plan.fewest]
    found = [_effects(square, contrasts, plan) for square in kept]
    gates = [min(passed.get(v.name, 1.0) for v in square[1:]) for square in kept for _ in EFFECTS]
    adjusted = gated([effect.p_value for effects, _ in found for effect in effects.values()], gates)
    entries = []
    for place, (square, (of_square, cells)) in enumerate(zip(kept, found, strict=True)):
        p_values = adjusted[len(EFFECTS) * place : len(EFFECTS) * (place + 1)]
        tested = {n: {**e.to_json(), "p_adjusted": p} for (n, e), p in zip(of_square.items(), p_values, strict=True)}
        names = {half: variant.name for half, variant in square._asdict().items()}
        entries.append({**tested, "cells": cells, "variants": names})
    return {**entries[0], "others": entries[1:]} if entries else None


def squares(variants: Sequence[Variant]) -> Iterator[Square]:
    """Every CBAM variant with the variants of its halves: the same place and, where a half has it, the same option."""
    none = next((variant for variant in variants if variant.name == BASELINE), None)
    for both in variants:
        if both.attention != BOTH or none is None:
            continue
        channel, spatial = (_half(both, name, variants) for name in (CHANNEL, SPATIAL))
        if channel is not None and spatial is not None:
            yield Square(none, channel, spatial, both)


def _half(both: Variant, name: str, variants: Sequence[Variant]) -> Variant | None:
    wanted = _settings(both)
    for variant in variants:
        if (variant.attention, variant.where, variant.dynamic) == (name, both.where, both.dynamic):
            defaults, mine = attention_options(name), _settings(variant)
            if all(mine[option] == wanted.get(option, defaults.get(option)) for option in mine):
                return variant
    return None


def _settings(variant: Variant) -> dict[str, Any]:
    """All options with the values that they take, so that one that is written out equals the same left out."""
    settings = {"init": "identity", **attention_options(variant.attention), **variant.options}
    if "poolings" in settings:
        settings["poolings"] = parse_poolings(settings["poolings"])
    return settings


def _effects(square: Square, contrasts: Contrasts, plan: AnalysisPlan) -> tuple[dict[str, Effect], dict[str, float]]:
    """The three effects, and the mean score in each cell."""
    seeds = contrasts.seeds(*(variant.name for variant in square))
    scores = {half: contrasts.matrix(variant.name, seeds) for half, variant in square._asdict().items()}
    none, channel, spatial, both = (scores[half] for half in Square._fields)
    differences = (
        ((channel - none) + (both - spatial)) / 2,
        ((spatial - none) + (both - channel)) / 2,
        (both - spatial) - (channel - none),
    )
    limits = (plan.limit, plan.limit, 2 * plan.limit)
    effects = (plan.interval(d, limit=limit) for d, limit in zip(differences, limits, strict=True))
    return dict(zip(EFFECTS, effects, strict=True)), {half: float(matrix.mean()) for half, matrix in scores.items()}
