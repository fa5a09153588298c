"""Multi-label classification: any number of labels per image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import ConfigError
from .contract import (
    TASKS,
    Array,
    Capability,
    Criterion,
    Floats,
    Forward,
    LossOptions,
    Metric,
    OutputLoss,
    Rows,
    check_width,
    left_out_metric,
    mean_of_views,
)
from .linear_heads import Folds, LinearHead, logistic_head

USUAL_THRESHOLD = 0.5
HIGHEST_WEIGHT = 100.0  # of the positives of a rare label


@dataclass(frozen=True)
class MultiLabel:
    """K independent labels per image, by sigmoid and binary cross entropy.

    Rows: `probabilities` (N, K) float32, `decisions` (N, K) uint8 at the thresholds, and `targets` (N, K) uint8.

    Attributes:
        outputs: label names in the order of the logits.
        thresholds: a label is given where its probability is at least this; 0.5 where none were chosen.
    """

    outputs: tuple[str, ...]
    thresholds: tuple[float, ...] = ()
    name: ClassVar[str] = "multilabel"
    reads: ClassVar[str] = "multilabel"
    supports: ClassVar[frozenset[Capability]] = frozenset({"label-smoothing", "class-weights", "solve-head", "tta"})

    @cached_property
    def metrics(self) -> Mapping[str, Metric]:
        found = [
            left_out_metric(
                "map", "mAP", mean_average_precision, mean_average_precision_without, per_output=average_precisions
            ),
            left_out_metric("macro-f1", "macro F1", macro_f1, macro_f1_without, per_output=f1_scores),
            left_out_metric("micro-f1", "micro F1", micro_f1, micro_f1_without),
        ]
        return {metric.name: metric for metric in found}

    def fitted(self, targets: Any) -> MultiLabel:
        return self

    def check(self, outputs: Tensor) -> None:
        check_width(outputs, self.outputs, "labels")

    def criterion(self, targets: Any, options: LossOptions) -> Criterion:
        if options.loss not in ("auto", "bce"):
            raise ConfigError(f"loss is '{options.loss}' for multilabel: expected bce, or leave it out.")
        weight = None if options.class_weights == "none" else torch.from_numpy(positive_weights(targets.labels))
        smoothing = options.label_smoothing

        def loss(logits: Tensor, wanted: Tensor) -> Tensor:
            smooth = wanted * (1 - smoothing) + smoothing / 2
            pos_weight = None if weight is None else weight.to(logits.device)
            return F.binary_cross_entropy_with_logits(logits, smooth, pos_weight=pos_weight)

        return OutputLoss(loss)

    def rows(self, model: Forward, inputs: Tensor) -> dict[str, Array]:
        return self._decided(model(inputs).float().sigmoid().cpu().numpy())

    def averaged(self, views: Sequence[Rows]) -> dict[str, Array]:
        return self._decided(mean_of_views(views, "probabilities"))

    def target_rows(self, targets: Any) -> dict[str, Array]:
        return {"targets": np.asarray(targets.labels, dtype=np.uint8)}

    def loss_of(self, rows: Rows) -> float:
        given = np.clip(rows["probabilities"].astype(np.float64), 1e-12, 1 - 1e-12)
        return float(-np.where(rows["targets"], np.log(given), np.log1p(-given)).mean())

    def summary(self, rows: Rows) -> dict[str, Any]:
        precision, counts = average_precisions(rows), rows["targets"].sum(0)
        per_output = [
            {"name": name, "average_precision": _or_none(p), "threshold": t, "images": int(count)}
            for name, p, t, count in zip(self.outputs, precision, self._thresholds, counts, strict=True)
        ]
        values = {metric.name: metric.value(rows) for metric in self.metrics.values()}
        return {"images": len(rows["targets"]), **values, "loss": self.loss_of(rows), "per_output": per_output}

    def tuned(self, validation: Callable[[], Rows] | None) -> MultiLabel:
        """With the thresholds that give each label its highest F1 on the validation images."""
        if validation is None:
            return self
        rows = validation()
        chosen = [best_threshold(rows["probabilities"][:, k], rows["targets"][:, k]) for k in range(len(self.outputs))]
        return replace(self, thresholds=tuple(chosen))

    def readable(self, rows: Rows, top: int) -> list[dict[str, Any]]:
        return [
            {
                "labels": [name for name, given in zip(self.outputs, decided, strict=True) if given],
                "probabilities": {n: round(float(p), 6) for n, p in zip(self.outputs, row, strict=True)},
            }
            for row, decided in zip(rows["probabilities"], rows["decisions"], strict=True)
        ]

    def caption(self, rows: Rows, position: int) -> tuple[str, str]:
        return self._named(rows["decisions"][position]), self._named(rows["targets"][position])

    def groups(self, rows: Rows) -> Array | None:
        return None

    def random_targets(self, batch_size: int) -> Tensor:
        return torch.randint(2, (batch_size, len(self.outputs))).float()

    def solve_head(self, features: Tensor, targets: Any, left_out: Folds, options: LossOptions) -> LinearHead:
        labels, weights = targets.labels.astype(np.float32), np.ones(1, np.float32)
        if options.class_weights == "balanced":
            weights = np.where(labels == 1, positive_weights(targets.labels), np.float32(1))
        return logistic_head(
            features,
            torch.from_numpy(labels),
            outputs=len(self.outputs),
            left_out=left_out,
            weights=torch.from_numpy(weights),
        )

    def _named(self, given: Array) -> str:
        return ", ".join(name for name, one in zip(self.outputs, given, strict=True) if one) or "no label"

    @property
    def _thresholds(self) -> tuple[float, ...]:
        return self.thresholds or (USUAL_THRESHOLD,) * len(self.outputs)

    def _decided(self, probabilities: Array) -> dict[str, Array]:
        decisions = probabilities >= np.asarray(self._thresholds, dtype=probabilities.dtype)
        return {"probabilities": probabilities, "decisions": decisions.astype(np.uint8)}


TASKS.register("multilabel", MultiLabel)


def positive_weights(labels: Array) -> Array:
    """(K,) float32, negatives per positive of each label, at most 100."""
    positives = labels.sum(0)
    ratio = (len(labels) - positives) / np.maximum(positives, 1)
    return np.clip(ratio, 1 / HIGHEST_WEIGHT, HIGHEST_WEIGHT).astype(np.float32)


def best_threshold(probabilities: Array, targets: Array) -> float:
    """The threshold with the highest F1, between two neighbouring probabilities; 0.5 where there is no positive."""
    if not targets.any():
        return USUAL_THRESHOLD
    order = np.argsort(-probabilities, kind="stable")
    ordered, hits = probabilities[order].astype(float), np.cumsum(targets[order])
    f1 = 2 * hits / (np.arange(1, len(hits) + 1) + targets.sum())
    ends = np.append(ordered[1:] < ordered[:-1], True)  # equal probabilities stand on one side
    best = int(np.argmax(np.where(ends, f1, -1.0)))
    below = ordered[best + 1] if best + 1 < len(ordered) else 0.0
    return float((ordered[best] + below) / 2)


def average_precisions(rows: Rows) -> Floats:
    """(K,) average precision of each label as scikit-learn has it, NaN where no image has it."""
    targets = rows["targets"]
    return np.array([_Ranking(rows["probabilities"][:, k], targets[:, k]).value for k in range(targets.shape[1])])


def mean_average_precision(rows: Rows) -> float:
    """Mean over the labels that occur."""
    return float(np.nanmean(average_precisions(_occurring(rows))))


def mean_average_precision_without(rows: Rows) -> Floats:
    rows = _occurring(rows)
    targets = rows["targets"]
    rankings = [_Ranking(rows["probabilities"][:, k], targets[:, k]) for k in range(targets.shape[1])]
    # a label whose only image is left out keeps its precision, so that the set of labels stays
    without = [np.where(np.isnan(found := ranking.without()), ranking.value, found) for ranking in rankings]
    return np.asarray(np.mean(without, axis=0))


def f1_scores(rows: Rows) -> Floats:
    """(K,) F1 of each label at its threshold, NaN where no image has it."""
    return np.where(rows["targets"].any(0), _f1(*_label_counts(rows)), np.nan)


def macro_f1(rows: Rows) -> float:
    """Mean over the labels that occur of F1 at the thresholds."""
    return float(_f1(*_label_counts(_occurring(rows))).mean())


def macro_f1_without(rows: Rows) -> Floats:
    rows = _occurring(rows)
    hits, total = _label_counts(rows)
    own_hits, own_total = _image_counts(rows)
    is_last = (rows["targets"] > 0) & (rows["targets"].sum(0) == 1)  # its label keeps its F1, as it keeps its place
    return np.asarray(np.where(is_last, _f1(hits, total), _f1(hits - own_hits, total - own_total)).mean(1))


def micro_f1(rows: Rows) -> float:
    """F1 of all decisions together at the thresholds."""
    hits, total = _label_counts(rows)
    return float(_f1(hits.sum(), total.sum()))


def micro_f1_without(rows: Rows) -> Floats:
    (hits, total), (own_hits, own_total) = _label_counts(rows), _image_counts(rows)
    return _f1(hits.sum() - own_hits.sum(1), total.sum() - own_total.sum(1))


def _occurring(rows: Rows) -> Rows:
    """The rows with the labels alone that some image has."""
    occurs = rows["targets"].any(0)
    if not occurs.any():
        raise ConfigError("no test image has any label: precision and F1 need at least one.")
    return {name: values[:, occurs] for name, values in rows.items()}


def _label_counts(rows: Rows) -> tuple[Floats, Floats]:
    """(K,) true positives, and given plus true labels."""
    hits, total = _image_counts(rows)
    return hits.sum(0), total.sum(0)


def _image_counts(rows: Rows) -> tuple[Floats, Floats]:
    targets, decisions = rows["targets"].astype(float), rows["decisions"].astype(float)
    return targets * decisions, targets + decisions


def _f1(hits: Any, total: Any) -> Floats:
    hits, total = np.asarray(hits, dtype=np.float64), np.asarray(total, dtype=np.float64)
    return np.divide(2 * hits, total, out=np.zeros_like(total), where=total > 0)


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


class _Ranking:
    """Average precision of one label, and without each image, in one sort: O(N log N)."""

    def __init__(self, probabilities: Array, targets: Array) -> None:
        order = np.argsort(-probabilities, kind="stable")
        self.order = order
        self.positive = targets[order].astype(float)
        ordered = probabilities[order]
        starts = np.append(True, ordered[1:] != ordered[:-1])
        group = np.cumsum(starts) - 1
        last = np.append(np.flatnonzero(starts)[1:], len(ordered)) - 1
        first = np.flatnonzero(starts)
        self.first, self.rank = first[group], last[group] + 1.0  # of its group of equal probabilities
        self.hits = np.cumsum(self.positive)[last][group]
        self.positives = self.positive.sum()

    @property
    def value(self) -> float:
        if not self.positives:
            return float("nan")
        return float((self.positive * self.hits / self.rank).sum() / self.positives)

    def without(self) -> Floats:
        """(N,), NaN where no positive would be left."""
        own = self.positive * self.hits / self.rank
        with np.errstate(all="ignore"):
            # every positive of this group and of those after it loses a rank; and a hit, where a positive is left out
            less_rank = np.where(self.rank > 1, self.positive * self.hits / (self.rank - 1), 0.0)
            less_both = np.where(self.rank > 1, self.positive * (self.hits - 1) / (self.rank - 1), 0.0)
        before = np.append(0.0, np.cumsum(own))[self.first]
        rest_rank = _sum_from(less_rank)[self.first]
        rest_both = _sum_from(less_both)[self.first] - less_both  # without the image itself
        total = before + np.where(self.positive > 0, rest_both, rest_rank)
        with np.errstate(all="ignore"):
            found = total / (self.positives - self.positive)
        result = np.empty(len(found))
        result[self.order] = np.where(self.positives > self.positive, found, np.nan)
        return result


def _sum_from(values: Floats) -> Floats:
    """The sum of each value and all after it."""
    return np.cumsum(values[::-1])[::-1]
