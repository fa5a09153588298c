"""Classification: one class per image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..config import ADDED
from ..errors import ConfigError
from .calibration import fit_temperature
from .class_metrics import (
    auroc,
    auroc_without,
    aurocs,
    balanced_accuracy,
    balanced_accuracy_without,
    f1_scores,
    macro_f1,
    macro_f1_without,
    quadratic_kappa,
    quadratic_kappa_without,
    recalls,
    sensitivity_at,
    sensitivity_at_without,
)
from .contract import (
    TASKS,
    Array,
    Capability,
    Criterion,
    Forward,
    LossOptions,
    Metric,
    OutputLoss,
    Rows,
    check_width,
    left_out_metric,
    mean_metric,
    mean_of_views,
)
from .linear_heads import Folds, LinearHead, logistic_head

SPECIFICITIES = (0.8, 0.9, 0.95, 0.98, 0.99)
USUAL_SPECIFICITY = 0.95


@dataclass(frozen=True)
class Classification:
    """One of K classes per image, by softmax and cross entropy.

    Rows: `probabilities` (N, K) float32 and `labels` (N,) int64.

    Attributes:
        outputs: class names in the order of the logits.
        temperature: by which logits are divided before the softmax; see `calibration`.
    """

    outputs: tuple[str, ...]
    temperature: float = field(default=1.0, metadata=ADDED)
    name: ClassVar[str] = "classification"
    reads: ClassVar[str] = "classification"
    supports: ClassVar[frozenset[Capability]] = frozenset(
        {
            "mix",
            "teacher",
            "label-smoothing",
            "class-weights",
            "balanced-sampler",
            "explain",
            "fold",
            "store",
            "solve-head",
            "tta",
            "calibrate",
        }
    )

    @cached_property
    def metrics(self) -> Mapping[str, Metric]:
        found = [
            mean_metric("top1", "top-1", correct, is_binary=True),
            left_out_metric(
                "balanced-accuracy",
                "balanced accuracy",
                balanced_accuracy,
                balanced_accuracy_without,
                per_output=recalls,
            ),
            left_out_metric("macro-f1", "macro F1", macro_f1, macro_f1_without, per_output=f1_scores),
            left_out_metric("auroc", "AUROC", auroc, auroc_without, per_output=aurocs, reads_probabilities=True),
            left_out_metric(
                "quadratic-kappa", "quadratic kappa", quadratic_kappa, quadratic_kappa_without, bounds=(-1.0, 1.0)
            ),
            _loss("nll", "NLL", negative_log_likelihood, unit="nats", bounds=(0.0, np.inf)),
            _loss("brier", "Brier score", brier, unit="", bounds=(0.0, 2.0)),
        ]
        if len(self.outputs) > 5:
            found.append(mean_metric("top5", "top-5", partial(in_top, k=5), is_binary=True, reads_probabilities=True))
        if len(self.outputs) == 2:
            found += [_sensitivity(f"sensitivity@specificity={s:g}", s) for s in SPECIFICITIES]
            found.append(_sensitivity("sensitivity@specificity", USUAL_SPECIFICITY))
        return {metric.name: metric for metric in found}

    @property
    def undefined_metrics(self) -> Mapping[str, str]:
        """What metrics that need another number of classes need, by their names."""
        count = len(self.outputs)
        found = {} if count > 5 else {"top5": f"needs more than 5 classes, and there are {count}"}
        names = ("sensitivity@specificity", *(f"sensitivity@specificity={s:g}" for s in SPECIFICITIES))
        return found | ({} if count == 2 else dict.fromkeys(names, f"needs 2 classes, and there are {count}"))

    def __post_init__(self) -> None:
        """Raise ConfigError where the temperature is no number above 0."""
        if not 0 < self.temperature < np.inf:
            raise ConfigError(f"temperature is {self.temperature}: expected a number above 0.")

    def fitted(self, targets: Any) -> Classification:
        return self

    def check(self, outputs: Tensor) -> None:
        check_width(outputs, self.outputs, "classes")

    def criterion(self, targets: Any, options: LossOptions) -> Criterion:
        if options.loss not in ("auto", "cross-entropy"):
            raise ConfigError(f"loss is '{options.loss}' for classification: expected cross-entropy, or leave it out.")
        return OutputLoss(self._loss(targets, options), hits)

    def _loss(self, targets: Any, options: LossOptions) -> Callable[[Tensor, Tensor], Tensor]:
        smoothing = options.label_smoothing
        if options.class_weights == "none":
            return partial(F.cross_entropy, label_smoothing=smoothing)
        weights = torch.from_numpy(balanced_weights(targets.labels, len(self.outputs)))

        def weighted(logits: Tensor, wanted: Tensor) -> Tensor:
            # divided by the number of images, not by the sum of weights: so parts of a batch add up to the batch
            losses = F.cross_entropy(
                logits, wanted, weights.to(logits.device), reduction="none", label_smoothing=smoothing
            )
            return losses.mean()

        return weighted

    def rows(self, model: Forward, inputs: Tensor) -> dict[str, Array]:
        logits = model(inputs).float()
        if self.temperature != 1:
            logits = logits / self.temperature
        return {"probabilities": logits.softmax(1).cpu().numpy()}

    def averaged(self, views: Sequence[Rows]) -> dict[str, Array]:
        return {"probabilities": mean_of_views(views, "probabilities")}

    def target_rows(self, targets: Any) -> dict[str, Array]:
        return {"labels": np.asarray(targets.labels, dtype=np.int64)}

    def loss_of(self, rows: Rows) -> float:
        return float(negative_log_likelihood(rows).mean())

    def summary(self, rows: Rows) -> dict[str, Any]:
        right, labels = correct(rows), rows["labels"]
        per_class = []
        for index, name in enumerate(self.outputs):
            mine = labels == index
            top1 = float(right[mine].mean()) if mine.any() else None
            per_class.append({"class": name, "top1": top1, "images": int(mine.sum())})
        return {
            "images": len(labels),
            "top1": float(right.mean()),
            "top5": float(in_top(rows, 5).mean()) if len(self.outputs) > 5 else None,
            "loss": self.loss_of(rows),
            "ece": calibration_error(rows),
            **({} if self.temperature == 1 else {"temperature": self.temperature}),
            "per_class": per_class,
        }

    def tuned(self, validation: Callable[[], Rows] | None) -> Classification:
        return self

    def calibrated(self, validation: Rows) -> Classification:
        return replace(self, temperature=fit_temperature(validation["probabilities"], validation["labels"]))

    def readable(self, rows: Rows, top: int) -> list[dict[str, Any]]:
        probabilities = rows["probabilities"]
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
        return [
            {"top": [{"class": self.outputs[c], "probability": round(float(row[c]), 6)} for c in best]}
            for row, best in zip(probabilities, order, strict=True)
        ]

    def caption(self, rows: Rows, position: int) -> tuple[str, str]:
        best = int(rows["probabilities"][position].argmax())
        return self.outputs[best], self.outputs[int(rows["labels"][position])]

    def groups(self, rows: Rows) -> Array | None:
        return rows["labels"]

    def random_targets(self, batch_size: int) -> Tensor:
        return torch.randint(len(self.outputs), (batch_size,))

    def solve_head(self, features: Tensor, targets: Any, left_out: Folds, options: LossOptions) -> LinearHead:
        count, is_weighted = len(self.outputs), options.class_weights == "balanced"
        weights = balanced_weights(targets.labels, count)[targets.labels] if is_weighted else np.ones(1, np.float32)
        labels = torch.from_numpy(targets.labels)
        return logistic_head(features, labels, outputs=count, left_out=left_out, weights=torch.from_numpy(weights))


TASKS.register("classification", Classification)


def hits(logits: Tensor, targets: Tensor) -> Tensor:
    """(B,) 1 where the most probable class is the true one; of soft targets, the most probable one."""
    wanted = targets.argmax(1) if targets.ndim == 2 else targets
    return (logits.argmax(1) == wanted).float()


def same_class(one: Array, other: Array) -> Array:
    """(N,) whether the highest logit of an image, or of all its pixels, is the same in both arrays (N, K, ...)."""
    same = one.argmax(1) == other.argmax(1)
    return np.asarray(same.reshape(len(same), -1).all(1))


def correct(rows: Rows) -> Array:
    """(N,) whether the most probable class is the true one."""
    return np.asarray(rows["probabilities"].argmax(1) == rows["labels"])


def in_top(rows: Rows, k: int) -> Array:
    """(N,) whether the true class is among the k most probable."""
    best = np.argsort(-rows["probabilities"], axis=1, kind="stable")[:, :k]
    return np.asarray((best == rows["labels"][:, None]).any(1))


def negative_log_likelihood(rows: Rows) -> Array:
    """(N,) in nats."""
    true = rows["probabilities"][np.arange(len(rows["labels"])), rows["labels"]]
    return np.asarray(-np.log(np.clip(true, 1e-12, None)))


def brier(rows: Rows) -> Array:
    """(N,) squared distance of the probabilities from the true class, 0 to 2 (Brier, Monthly Weather Review 78, 1950)."""
    true = np.eye(rows["probabilities"].shape[1])[rows["labels"]]
    return np.asarray(np.square(rows["probabilities"] - true).sum(1))


def calibration_error(rows: Rows, bins: int = 15) -> float:
    """Expected calibration error with bins of equal width (Guo et al., arXiv:1706.04599)."""
    right, confidence = correct(rows), rows["probabilities"].max(1)
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs(right[which == b].mean() - confidence[which == b].mean()) for b in np.unique(which)]
    return float(np.dot(gaps, [np.mean(which == b) for b in np.unique(which)]))


def balanced_weights(labels: Sequence[int] | Array, classes: int) -> Array:
    """(K,) float32, inverse to the frequency of each class, with a mean of 1 over the images (as scikit-learn has it)."""
    counts = np.bincount(np.asarray(labels), minlength=classes)
    return (len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1))).astype(np.float32)


def _sensitivity(name: str, specificity: float) -> Metric:
    return left_out_metric(
        name,
        f"sensitivity at {100 * specificity:g} % specificity",
        partial(sensitivity_at, specificity=specificity),
        partial(sensitivity_at_without, specificity=specificity),
        reads_probabilities=True,
    )


def _loss(name: str, label: str, scores: Callable[[Rows], Array], **fields: Any) -> Metric:
    return mean_metric(name, label, scores, higher_is_better=False, reads_probabilities=True, **fields)
