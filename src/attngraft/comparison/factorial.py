"""The 2 x 2 design of channel and spatial gates: main effects and interaction.

Switching a half of a trained network off says what that network rests on; training without it says what it is needed
for, as what remains can make up for what is missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from ..attention import attention_options
from ..attention.cbam_channel import parse_poolings
from ..statistics.effects import crossed_effect
from ..tasks import Metric
from .contrasts import Evaluations, score_matrix
from .variants import BASELINE, Variant

BOTH, CHANNEL, SPATIAL = "cbam", "cbam-channel", "cbam-spatial"


class Square(NamedTuple):
    """Four variants that differ in which halves they have, and in nothing else."""

    none: Variant
    channel: Variant
    spatial: Variant
    both: Variant


def factorial(variants: Sequence[Variant], evaluations: Evaluations, metric: Metric) -> dict[str, Any] | None:
    """Main effects and interaction of the halves, from the first complete square among the variants.

    The main effect of a half is what it adds on average over networks without and with the other half; the
    interaction is what both add together beyond the sum of what each adds alone. All are paired by seed and image, with
    crossed intervals.

    Args:
        variants: the columns of a comparison.
        evaluations: predictions of every run.
        metric: what the variants are compared by.

    Returns:
        JSON values: "channel", "spatial" and "interaction" with mean, low, high, ...; "cells" with the mean score of
        "none", "channel", "spatial" and "both"; their "variants" by name; and in "others" further squares of the same
        shape, for other orders, options or places. None without a complete square.
    """
    found = [_effects(square, evaluations, metric) for square in squares(variants)]
    return {**found[0], "others": found[1:]} if found else None


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


def _effects(square: Square, evaluations: Evaluations, metric: Metric) -> dict[str, Any]:
    scores = {half: score_matrix(evaluations[variant.name], metric) for half, variant in square._asdict().items()}
    none, channel, spatial, both = (scores[half] for half in Square._fields)
    limit = metric.bounds[1] - metric.bounds[0]
    effects = {
        "channel": crossed_effect(((channel - none) + (both - spatial)) / 2, limit=limit),
        "spatial": crossed_effect(((spatial - none) + (both - channel)) / 2, limit=limit),
        "interaction": crossed_effect((both - spatial) - (channel - none), limit=2 * limit),
    }
    return {
        **{name: effect.to_json() for name, effect in effects.items()},
        "cells": {half: float(matrix.mean()) for half, matrix in scores.items()},
        "variants": {half: variant.name for half, variant in square._asdict().items()},
    }
