"""Detection: boxes around objects, each with a class and a score."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..data.object_boxes import BoxBatch, BoxTarget
from ..errors import BackboneError, ConfigError, DataError
from .average_precision import BoxMeasure, average_precision_metrics
from .box_matching import error_counts, match_rows
from .contract import TASKS, Array, Capability, Criterion, Floats, Forward, LossOptions, Metric, Rows
from .linear_heads import Folds, LinearHead

SHOWN_SCORE = 0.3  # of detections that people are shown
RANDOM_SIDE = 16.0  # pixels, of the boxes of dry runs


@dataclass(frozen=True)
class Detection:
    """Boxes of K classes, by networks with torchvision's calling convention.

    In train mode a network takes images and targets and returns a dict of losses, whose sum is the loss; in eval mode it
    returns for each image a dict of `boxes`, `scores` and `labels`, of which the best 100 are kept. Labels are 0 to K - 1
    on both sides. Crowds are no objects to learn, and none to be found.

    Rows: `boxes` (N, 100, 4) x0 y0 x1 y1, `scores` and `labels` (N, 100), label -1 where there are fewer; `truth_boxes`
    (N, M, 4), `truth_labels`, `truth_crowd` and `truth_area` (N, M) with as many places as the image with the most
    objects has; what `match_rows` finds; and `scale` (N, 2). Boxes are in pixels of the file, counted from the corner of
    the input, and `scale` is pixels of the file per pixel of the input.

    Attributes:
        outputs: class names in the order of the labels.
    """

    outputs: tuple[str, ...]
    name: ClassVar[str] = "detection"
    reads: ClassVar[str] = "detection"
    supports: ClassVar[frozenset[Capability]] = frozenset()

    @cached_property
    def metrics(self) -> Mapping[str, Metric]:
        return average_precision_metrics(len(self.outputs))

    def fitted(self, targets: Any) -> Detection:
        return self

    def check(self, outputs: Tensor) -> None:
        if outputs.ndim != 3 or outputs.shape[2] != 6:
            raise BackboneError(
                f"the model returns a tensor of shape {tuple(outputs.shape)}: expected a detector, which returns boxes, scores "
                "and labels (fcos:timm:NAME, torchvision:fasterrcnn_resnet50_fpn)."
            )
        highest = int(outputs[..., 5].max())
        if highest >= len(self.outputs):
            raise DataError(
                f"the model finds objects of class {highest} and the data have {len(self.outputs)} classes, from 0 on: create it "
                f"with num_classes={len(self.outputs)}."
            )

    def criterion(self, targets: Any, options: LossOptions) -> Criterion:
        if options.loss != "auto":
            raise ConfigError(f"loss is '{options.loss}' for detection: expected auto, as detectors have their own.")
        return DetectorLoss()

    def rows(self, model: Forward, inputs: Tensor) -> dict[str, Array]:
        """`boxes` (N, 100, 4) in pixels of the inputs, `scores` and `labels` (N, 100)."""
        found = model(inputs)
        self.check(found)
        packed = found.float().cpu().numpy()
        return {"boxes": packed[..., :4], "scores": packed[..., 4], "labels": packed[..., 5].astype(np.int64)}

    def scored_rows(self, model: Forward, inputs: Tensor, targets: Any) -> dict[str, Array]:
        found = self.rows(model, inputs)
        scale = np.stack([one["scale"].cpu().numpy() for one in targets])
        rows = {**found, **_truth(targets), "scale": scale}
        for name in ("boxes", "truth_boxes"):
            rows[name] = rows[name] * np.tile(scale, 2)[:, None]
        return {**rows, **match_rows(rows)}

    def averaged(self, views: Sequence[Rows]) -> dict[str, Array]:
        raise ConfigError("views of an image cannot be averaged for detection: leave out tta.")

    def target_rows(self, targets: Any) -> dict[str, Array]:
        return {}

    def loss_of(self, rows: Rows) -> float:
        """The mean of `image_costs`; a detector has no loss in eval mode."""
        return float(image_costs(rows).mean())

    def summary(self, rows: Rows) -> dict[str, Any]:
        numbers = {name.replace("-", "_"): _defined(metric, rows) for name, metric in self.metrics.items()}
        per_class = BoxMeasure(len(self.outputs)).per_class(rows)
        counts = (rows["truth_ranges"] & 1).astype(bool)
        objects = [(counts & (rows["truth_labels"] == label)).sum(1) for label in range(len(self.outputs))]
        return {
            "images": len(rows["scores"]),
            **numbers,
            "loss": self.loss_of(rows),
            "objects": int(counts.sum()),
            "errors": {kind: int(found.sum()) for kind, found in error_counts(rows, SHOWN_SCORE).items()},
            "errors_from_score": SHOWN_SCORE,
            "absent": [name for name, found in zip(self.outputs, objects, strict=True) if not found.sum()],
            "per_class": [
                {
                    "class": name,
                    "ap": float(value) if np.isfinite(value) else None,
                    "objects": int(found.sum()),
                    "images": int((found > 0).sum()),
                }
                for name, value, found in zip(self.outputs, per_class, objects, strict=True)
            ],
        }

    def tuned(self, validation: Callable[[], Rows] | None) -> Detection:
        return self

    def readable(self, rows: Rows, top: int) -> list[dict[str, Any]]:
        found = []
        for boxes, scores, labels in zip(rows["boxes"], rows["scores"], rows["labels"], strict=True):
            kept = np.flatnonzero(labels >= 0)[:top]
            found.append({"top": [self._detection(boxes[k], scores[k], labels[k]) for k in kept]})
        return found

    def _detection(self, box: Array, score: float, label: int) -> dict[str, Any]:
        corners = [round(float(value), 2) for value in box]
        return {"class": self.outputs[int(label)], "score": round(float(score), 6), "box": corners}

    def caption(self, rows: Rows, position: int) -> tuple[str, str]:
        said = rows["labels"][position][rows["scores"][position] >= SHOWN_SCORE]
        true = rows["truth_labels"][position][(rows["truth_ranges"][position] & 1) > 0]
        return self._counted(said[said >= 0]), self._counted(true)

    def _counted(self, labels: Array) -> str:
        """For example "cat (2), dog"."""
        counts = np.bincount(labels.astype(np.int64), minlength=len(self.outputs))
        order = [k for k in np.argsort(-counts, kind="stable")[:3] if counts[k]]
        named = (f"{self.outputs[k]} ({counts[k]})" if counts[k] > 1 else self.outputs[k] for k in order)
        return ", ".join(named) or "no object"

    def pictured_boxes(self, rows: Rows, position: int) -> tuple[Array, Array]:
        """Truth and prediction of an image: each (n, 5) x0 y0 x1 y1 in pixels of the input and the label."""
        scale = np.tile(rows["scale"][position], 2)
        found = []
        for prefix in ("truth_", ""):
            boxes, labels = rows[f"{prefix}boxes"][position] / scale, rows[f"{prefix}labels"][position]
            shown = labels >= 0
            if not prefix:
                shown &= rows["scores"][position] >= SHOWN_SCORE
            found.append(np.concatenate([boxes, labels[:, None]], 1)[shown])
        return found[0], found[1]

    def groups(self, rows: Rows) -> Array | None:
        return None

    def random_targets(self, batch_size: int) -> BoxBatch:
        """One square in each image, at a random place of the 48 pixels next to its corner, of a random class."""
        images: list[BoxTarget] = []
        for corner, label in zip(
            32 * torch.rand(batch_size, 2), torch.randint(len(self.outputs), (batch_size, 1)), strict=True
        ):
            images.append(
                {
                    "boxes": torch.cat([corner, corner + RANDOM_SIDE])[None],
                    "labels": label,
                    "crowd": torch.zeros(1, dtype=torch.bool),
                    "area": torch.full((1,), RANDOM_SIDE**2),
                    "scale": torch.ones(2),
                }
            )
        return BoxBatch(images, 1)

    def model_targets(self, targets: Any) -> list[dict[str, Tensor]]:
        return to_learn(targets)

    def solve_head(self, features: Tensor, targets: Any, left_out: Folds, options: LossOptions) -> LinearHead:
        raise ConfigError("the heads of a detector cannot be solved: train them.")


TASKS.register("detection", Detection)


class DetectorLoss:
    """The sum of the losses that a detector returns for images and targets.

    How they add up over the parts of a batch is up to the detector: torchvision's are means over images or over the
    objects, positions or samples of the part, so the gradient of parts is that of the batch but for these weights.
    """

    is_scored = False

    def __call__(self, model: Any, inputs: Tensor, targets: Any) -> tuple[Tensor, Tensor]:
        loss = summed_losses(model(inputs, to_learn(targets)))
        return loss, loss.detach()

    def running(self, outputs: Tensor, targets: Any) -> float:
        return 0.0


def summed_losses(losses: Any) -> Tensor:
    """The sum of a dict of losses, as float32.

    Raises:
        BackboneError: the model returned something else.
    """
    values = list(losses.values()) if isinstance(losses, Mapping) else []
    if not values or not all(isinstance(value, Tensor) and value.numel() == 1 for value in values):
        kind = type(losses).__name__
        raise BackboneError(
            f"the model returns a {kind} in train mode: expected a dict of losses, each one number, from images and targets."
        )
    return torch.stack([value.float().reshape(()) for value in values]).sum()


def to_learn(targets: Any) -> list[dict[str, Tensor]]:
    """What a detector of torchvision takes: the boxes and labels of the objects that are no crowds, image by image."""
    return [{name: one[name][~one["crowd"]] for name in ("boxes", "labels")} for one in targets]


def image_costs(rows: Rows) -> Floats:
    """(N,) how far the detections of an image are from the truth at an overlap of 0.5, 0 where they are perfect.

    An object that is found with score s costs (1 - s)^2, one that is not found 1, and a wrong detection s^2; their sum is
    divided by the number of objects, or by 1 where there is none.
    """
    counts = (rows["truth_ranges"] & 1) > 0
    best = np.maximum(rows["truth_found"], 0).astype(np.float64)
    missed = (np.where(counts, 1 - best, 0) ** 2).sum(1)
    wrong = (np.where(rows["errors"] > 0, rows["scores"], 0).astype(np.float64) ** 2).sum(1)
    return np.asarray((missed + wrong) / np.maximum(counts.sum(1), 1))


def _truth(targets: Any) -> dict[str, Array]:
    """The objects of a batch as arrays with a place for as many as any image of the data has."""
    shape, images = (len(targets), targets.most), list(targets)
    rows = {
        "truth_boxes": np.zeros((*shape, 4), dtype=np.float32),
        "truth_labels": np.full(shape, -1, dtype=np.int64),
        "truth_crowd": np.zeros(shape, dtype=np.bool_),
        "truth_area": np.zeros(shape, dtype=np.float32),
    }
    for position, image in enumerate(images):
        for name, values in rows.items():
            found = image[name.removeprefix("truth_")].cpu().numpy()
            values[position, : len(found)] = found
    return rows


def _defined(metric: Metric, rows: Rows) -> float | None:
    """The value of a metric, None where no object decides it."""
    try:
        return metric.value(rows)
    except ConfigError:
        return None
