"""Segmentation: one class per pixel."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..data.masks import IGNORED
from ..errors import BackboneError, ConfigError, DataError
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
    left_out_metric,
    mean_metric,
)
from .linear_heads import Folds, LinearHead
from .pixel_metrics import (
    boundary_f1,
    class_iou,
    class_iou_without,
    class_ious,
    image_dices,
    image_ious,
    mean_iou,
    mean_iou_without,
    pixel_accuracy,
    pixel_accuracy_without,
)

LOSSES = ("auto", "cross-entropy", "dice", "focal")
FOCUS = 2.0  # gamma of the focal loss
MOST_CLASS_METRICS = 50
SHOWN = 64  # side of the masks that are kept


@dataclass(frozen=True)
class Segmentation:
    """One of K classes for each pixel, by softmax, cross entropy and Dice loss.

    Logits (B, K, h, w) of another size than the masks are brought to theirs bilinearly. Pixels of index 255 count nowhere.

    Rows: `hits`, `predicted` and `truth` (N, K) int64, see `pixel_metrics`; `boundary` (N,) and `loss` (N,); and for people
    `shown` and `true` (N, 64, 64) uint8, the predicted and the true mask of the input in small.

    Attributes:
        outputs: class names in the order of the logits.
    """

    outputs: tuple[str, ...]
    name: ClassVar[str] = "segmentation"
    reads: ClassVar[str] = "segmentation"
    supports: ClassVar[frozenset[Capability]] = frozenset({"label-smoothing", "class-weights"})

    @cached_property
    def metrics(self) -> Mapping[str, Metric]:
        found = [
            left_out_metric("miou", "mean IoU", mean_iou, mean_iou_without, per_output=class_ious),
            mean_metric("image-iou", "IoU of an image", image_ious),
            mean_metric("dice", "Dice of an image", image_dices),
            mean_metric("boundary-f1", "boundary F1", lambda rows: rows["boundary"]),
            left_out_metric("pixel-accuracy", "pixel accuracy", pixel_accuracy, pixel_accuracy_without),
        ]
        for index, name in enumerate(self.outputs[:MOST_CLASS_METRICS]):
            value, without = partial(class_iou, index=index), partial(class_iou_without, index=index)
            found.append(left_out_metric(f"iou:{name}", f"IoU of {name}", value, without))
        return {metric.name: metric for metric in found}

    def fitted(self, targets: Any) -> Segmentation:
        return self

    def check(self, outputs: Tensor) -> None:
        if outputs.ndim != 4:
            raise BackboneError(
                f"the model returns a tensor of shape {tuple(outputs.shape)}: expected (images, classes, height, width), as "
                "segmentation networks do (smp:Unet/ENCODER, torchvision:lraspp_mobilenet_v3_large)."
            )
        if outputs.shape[1] != len(self.outputs):
            raise DataError(
                f"the model has {outputs.shape[1]} maps of logits and the data have {len(self.outputs)} classes: create it "
                f"with num_classes={len(self.outputs)}."
            )

    def criterion(self, targets: Any, options: LossOptions) -> Criterion:
        if options.loss not in LOSSES:
            raise ConfigError(f"loss is '{options.loss}' for segmentation: expected {', '.join(LOSSES[1:])} or auto.")
        weights = None
        if options.class_weights == "balanced":
            weights = torch.from_numpy(balanced_pixel_weights(targets.pixels))
        return OutputLoss(PixelLoss(options.loss, options.label_smoothing, weights))

    def rows(self, model: Forward, inputs: Tensor) -> dict[str, Array]:
        """`classes` (N, H, W) uint8, the predicted class of each pixel of the inputs."""
        return {"classes": _sized(model(inputs).float(), inputs).argmax(1).byte().cpu().numpy()}

    def scored_rows(self, model: Forward, inputs: Tensor, targets: Any) -> dict[str, Array]:
        masks = targets.to(inputs.device)
        logits = _sized(model(inputs).float(), masks)
        predicted, count = logits.argmax(1), len(self.outputs)
        found: dict[str, list[Any]] = {name: [] for name in ("hits", "predicted", "truth")}
        for said, true in zip(predicted, masks, strict=True):
            counting = true != IGNORED
            said, true = said[counting], true[counting]
            found["hits"].append(torch.bincount(true[said == true], minlength=count))
            found["predicted"].append(torch.bincount(said, minlength=count))
            found["truth"].append(torch.bincount(true, minlength=count))
        rows = {name: torch.stack(counts).cpu().numpy() for name, counts in found.items()}
        pairs = zip(predicted.cpu().numpy(), masks.cpu().numpy(), strict=True)
        rows["boundary"] = np.array([boundary_f1(said, true, IGNORED) for said, true in pairs])
        rows["shown"], rows["true"] = (_small(mask) for mask in (predicted, masks))
        rows["loss"] = cross_entropies(logits, masks).double().cpu().numpy()
        return rows

    def averaged(self, views: Sequence[Rows]) -> dict[str, Array]:
        raise ConfigError("views of an image cannot be averaged for segmentation: leave out tta.")

    def target_rows(self, targets: Any) -> dict[str, Array]:
        return {}

    def loss_of(self, rows: Rows) -> float:
        return float(rows["loss"].mean())

    def summary(self, rows: Rows) -> dict[str, Any]:
        ious, images = class_ious(rows), (rows["truth"] > 0).sum(0)
        return {
            "images": len(rows["loss"]),
            "miou": mean_iou(rows),
            "image_iou": float(image_ious(rows).mean()),
            "dice": float(image_dices(rows).mean()),
            "boundary_f1": float(rows["boundary"].mean()),
            "pixel_accuracy": pixel_accuracy(rows),
            "loss": self.loss_of(rows),
            "absent": [name for name, value in zip(self.outputs, ious, strict=True) if not np.isfinite(value)],
            "per_class": [
                {"class": name, "iou": float(iou) if np.isfinite(iou) else None, "images": int(count)}
                for name, iou, count in zip(self.outputs, ious, images, strict=True)
            ],
        }

    def tuned(self, validation: Callable[[], Rows] | None) -> Segmentation:
        return self

    def readable(self, rows: Rows, top: int) -> list[dict[str, Any]]:
        found = []
        for mask in rows["classes"]:
            shares = np.bincount(mask.ravel(), minlength=len(self.outputs)) / mask.size
            order = np.argsort(-shares, kind="stable")[:top]
            found.append(
                {"top": [{"class": self.outputs[k], "share": round(float(shares[k]), 6)} for k in order if shares[k]]}
            )
        return found

    def caption(self, rows: Rows, position: int) -> tuple[str, str]:
        one = {name: rows[name][position : position + 1] for name in ("hits", "predicted", "truth")}
        true = [name for name, count in zip(self.outputs, one["truth"][0], strict=True) if count]
        return f"IoU {100 * float(image_ious(one)[0]):.0f} %", ", ".join(true[:3])

    def pictures(self, rows: Rows, position: int) -> tuple[Array, Array]:
        return rows["true"][position], rows["shown"][position]

    def groups(self, rows: Rows) -> Array | None:
        return None

    def random_targets(self, batch_size: int) -> Tensor:
        return torch.randint(len(self.outputs), (batch_size, 64, 64))

    def solve_head(self, features: Tensor, targets: Any, left_out: Folds, options: LossOptions) -> LinearHead:
        raise ConfigError("the head of a segmentation network cannot be solved: train it.")


TASKS.register("segmentation", Segmentation)


def class_map(scores: Tensor) -> Array:
    """(H, W) uint8, the class with the highest score of each pixel, from (K, H, W)."""
    return scores.argmax(0).byte().cpu().numpy()


def class_probabilities(logits: Tensor) -> Tensor:
    """(K, ...) of logits (K, ...)."""
    return logits.softmax(0)


class PixelLoss:
    """The mean over images of a loss over their pixels that count.

    Args:
        kind: "auto" for cross entropy plus Dice loss, "cross-entropy", "dice", or "focal" (Lin et al., arXiv:1708.02002).
        smoothing: label smoothing of the cross entropy.
        weights: (K,) of the classes in cross entropy and focal loss.
    """

    def __init__(self, kind: str, smoothing: float = 0.0, weights: Tensor | None = None) -> None:
        self.kind = kind
        self.smoothing = smoothing
        self.weights = weights

    def __call__(self, logits: Tensor, masks: Tensor) -> Tensor:
        """The loss of logits (B, K, h, w) and masks (B, H, W)."""
        logits = _sized(logits, masks)
        losses = torch.zeros(len(logits), device=logits.device)
        if self.kind in ("auto", "cross-entropy", "focal"):
            weights = None if self.weights is None else self.weights.to(logits.device)
            focus = FOCUS if self.kind == "focal" else 0.0
            losses = losses + cross_entropies(logits, masks, weights, self.smoothing, focus)
        if self.kind in ("auto", "dice"):
            losses = losses + dice_losses(logits, masks)
        return losses.mean()


def cross_entropies(
    logits: Tensor, masks: Tensor, weights: Tensor | None = None, smoothing: float = 0.0, focus: float = 0.0
) -> Tensor:
    """(B,) mean cross entropy over the pixels of each image that count, 0 where none does."""
    losses = F.cross_entropy(logits, masks, weights, ignore_index=IGNORED, reduction="none", label_smoothing=smoothing)
    counting = masks != IGNORED
    if focus:
        true = torch.where(counting, masks, 0)[:, None]
        losses = losses * (1 - logits.softmax(1).gather(1, true)[:, 0]) ** focus
    return losses.sum((1, 2)) / counting.sum((1, 2)).clamp_min(1)


def dice_losses(logits: Tensor, masks: Tensor) -> Tensor:
    """(B,) 1 minus the soft Dice coefficient, mean over the classes that the image has (Milletari et al., arXiv:1606.04797)."""
    counting = (masks != IGNORED)[:, None]
    probabilities = logits.softmax(1) * counting
    true = F.one_hot(torch.where(counting[:, 0], masks, 0), logits.shape[1]).permute(0, 3, 1, 2) * counting
    truth = true.sum((2, 3))
    dice = 2 * (probabilities * true).sum((2, 3)) / (probabilities.sum((2, 3)) + truth).clamp_min(1e-6)
    has = truth > 0
    return ((1 - dice) * has).sum(1) / has.sum(1).clamp_min(1)


def balanced_pixel_weights(pixels: Array) -> Array:
    """(K,) float32 inverse to the pixels of each class, with a mean of 1 over the pixels; from (N, K) counts."""
    counts = pixels.sum(0)
    return (counts.sum() / (np.count_nonzero(counts) * np.maximum(counts, 1))).astype(np.float32)


def _small(masks: Tensor) -> Array:
    """(N, 64, 64) uint8 of masks (N, H, W), each pixel from the nearest one."""
    found = F.interpolate(masks[:, None].float(), size=(SHOWN, SHOWN), mode="nearest-exact")
    return found[:, 0].byte().cpu().numpy()


def _sized(logits: Tensor, like: Tensor) -> Tensor:
    """Logits at the height and width of masks or images."""
    if logits.shape[-2:] == like.shape[-2:]:
        return logits
    return F.interpolate(logits, size=like.shape[-2:], mode="bilinear", align_corners=False)
