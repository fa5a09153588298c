"""Effects, shares and Shapley values of ablations, with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..statistics.bootstrap import Interval, interval, resampled_means
from ..statistics.effects import crossed_effect
from ..statistics.shapley import Order, exact_values, interaction, is_exhaustive, sampling_error, values_along
from .ablations import BINS, Scores
from .explanation_record import CellEffect, Half, Interaction, SiteWorth, Worth

Floats = NDArray[np.float64]
CELLS_AT_ONCE = 16  # whose calibration is resampled together


def cell_effects(intact: Scores, cells: Mapping[tuple[str, str], Scores], seed: int) -> tuple[CellEffect, ...]:
    """The effects of all changes against the intact model."""
    changes = _calibration_changes(intact, list(cells.values()), seed)
    return tuple(
        CellEffect(
            where,
            change,
            scores.top1,
            scores.mean_loss,
            scores.calibration_error,
            effect=crossed_effect(_gain(scores.correct, intact.correct)[None]).interval,
            loss_effect=crossed_effect(_gain(scores.loss, intact.loss)[None], limit=math.inf).interval,
            ece_change=ece_change,
        )
        for ((where, change), scores), ece_change in zip(cells.items(), changes, strict=True)
    )


def worth_of(accuracy: Floats, loss: Floats) -> Worth:
    """From values by sampled order and image (S, N)."""
    return Worth(crossed_effect(accuracy).interval, crossed_effect(loss, limit=math.inf).interval)


def total_of(intact: Scores, nothing: Scores) -> Worth:
    """What all attention adds to a model without any."""
    return worth_of(_gain(intact.correct, nothing.correct)[None], _gain(nothing.loss, intact.loss)[None])


def halves_of(parts: Sequence[str], worth: Mapping[int, Scores], seed: int) -> tuple[Half, ...]:
    """Exact Shapley values of the parts from the scores of every combination of parts that are on."""
    by_accuracy, by_loss = (exact_values(values, len(parts)) for values in _worths(worth))
    found = []
    for part, accuracy, loss, share, loss_share in zip(
        parts, by_accuracy, by_loss, _shares(by_accuracy, seed), _shares(by_loss, seed), strict=True
    ):
        value = worth_of(accuracy[None], loss[None])
        half = Half(part, value.accuracy, value.loss, loss_share=loss_share.mean if loss_share else None)
        if share is not None:
            half = replace(half, share=share.mean, share_low=share.low, share_high=share.high)
        found.append(half)
    return tuple(found)


def sites_of(
    paths: Sequence[str], worth: Mapping[int, Scores], pairs: Sequence[tuple[Order, Order]]
) -> tuple[SiteWorth, ...]:
    """Shapley values of the sites along pairs of orders, from the scores of the coalitions on these."""
    exhaustive = is_exhaustive(len(paths), 2 * len(pairs))
    by_accuracy, by_loss = (values_along(values, pairs) for values in _worths(worth))
    if exhaustive:  # nothing was sampled but the images
        by_accuracy, by_loss = by_accuracy.mean(1, keepdims=True), by_loss.mean(1, keepdims=True)
    found = []
    for path, accuracy, loss in zip(paths, by_accuracy, by_loss, strict=True):
        value = worth_of(accuracy, loss)
        found.append(SiteWorth(path, value.accuracy, value.loss, 0.0 if exhaustive else sampling_error(accuracy)))
    return tuple(found)


def interactions_of(
    paths: Sequence[str], worth: Mapping[int, Scores], pairs: Sequence[tuple[int, int]]
) -> tuple[Interaction, ...]:
    """Interactions of pairs of sites, given by their positions among the paths."""
    accuracy = _worths(worth)[0]
    effects = [crossed_effect(interaction(accuracy, len(paths), *pair)[None], limit=2.0) for pair in pairs]
    return tuple(
        Interaction(paths[first], paths[second], effect.mean, effect.low, effect.high)
        for (first, second), effect in zip(pairs, effects, strict=True)
    )


def _worths(scores: Mapping[int, Scores]) -> tuple[dict[int, Floats], dict[int, Floats]]:
    """The worth of each coalition, image by image, in accuracy and in log likelihood."""
    accuracy = {who: found.correct.astype(np.float64) for who, found in scores.items()}
    return accuracy, {who: -found.loss.astype(np.float64) for who, found in scores.items()}


def _shares(values: Floats, seed: int) -> list[Interval | None]:
    """(players, N) -> each player's part of the sum; nothing where the sum may be 0."""
    total = values.sum(0)
    effect = crossed_effect(total[None], limit=math.inf)
    if effect.low <= 0 <= effect.high:
        return [None] * len(values)
    means = resampled_means(np.stack([*values, total], 1).astype(np.float32), seed)
    with np.errstate(divide="ignore", invalid="ignore"):
        resampled = np.where(means[:, -1:] == 0, np.nan, means[:, :-1] / means[:, -1:])
    return [interval(float(value.mean() / total.mean()), resampled[:, i]) for i, value in enumerate(values)]


def _calibration_changes(intact: Scores, cells: Sequence[Scores], seed: int) -> list[Interval]:
    """Paired: every cell and the intact model with the same resampled images."""
    found = []
    for start in range(0, len(cells), CELLS_AT_ONCE):
        group = [intact, *cells[start : start + CELLS_AT_ONCE]]
        means = resampled_means(np.concatenate([scores.binned_gaps() for scores in group], 1), seed)
        errors = np.abs(means.reshape(len(means), len(group), BINS)).sum(2)
        found += [
            interval(scores.calibration_error - intact.calibration_error, errors[:, 1 + i] - errors[:, 0])
            for i, scores in enumerate(group[1:])
        ]
    return found


def _gain(new: NDArray[Any], old: NDArray[Any]) -> Floats:
    return new.astype(np.float64) - old.astype(np.float64)
