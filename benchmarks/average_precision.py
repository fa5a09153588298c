"""Average precision with pseudo-values beside faster-coco-eval: python benchmarks/average_precision.py [IMAGES [CLASSES]]

IMAGES with 100 detections each, objects of CLASSES about as frequent as in COCO (7 per image). Timed are, on one thread:
matching, the value of AP50:95, and its pseudo-values; and evaluate() and accumulate() of faster-coco-eval, which has the value alone
(for all areas and numbers of detections).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

from attngraft.environment import hardware
from attngraft.tasks.average_precision import average_precision_metrics
from attngraft.tasks.box_matching import match_rows

DETECTIONS, OBJECTS = 100, 14  # of an image at most; half as many objects in the mean
Rows = dict[str, Any]
T = TypeVar("T")


def main(images: int = 5000, classes: int = 80) -> None:
    rows = random_rows(images, classes)
    metric = average_precision_metrics(classes)["ap"]
    found, match_s = timed(lambda: {**rows, **match_rows(rows)})
    value, value_s = timed(lambda: metric.value(found))
    _, scores_s = timed(lambda: metric.scores(found))
    evaluation = reference(rows, classes)
    _, reference_s = timed(lambda: (evaluation.evaluate(), evaluation.accumulate()))
    evaluation.summarize()
    print(
        json.dumps(
            {
                "images": images,
                "detections": int((rows["labels"] >= 0).sum()),
                "objects": int((rows["truth_labels"] >= 0).sum()),
                "classes": classes,
                "ap": value,
                "difference": abs(value - float(evaluation.stats[0])),
                "match_s": match_s,
                "value_s": value_s,
                "pseudo_values_s": scores_s,
                "faster_coco_eval_s": reference_s,
                "ratio": (match_s + scores_s) / reference_s,
                "hardware": hardware(),
            },
            indent=1,
        )
    )


def timed(work: Callable[[], T]) -> tuple[T, float]:
    began = time.process_time()
    return work(), time.process_time() - began


def random_rows(images: int, classes: int) -> Rows:
    """Objects, and detections: one or two near most objects, the others anywhere."""
    rng = np.random.default_rng(0)
    shape = (images, OBJECTS)
    corner, size = rng.integers(0, 400, (*shape, 2)), rng.integers(8, 200, (*shape, 2))
    truth = np.concatenate([corner, corner + size], axis=2).astype(np.float64)
    frequency = 1 / np.arange(1, classes + 1)
    labels = rng.choice(classes, shape, p=frequency / frequency.sum())
    known = np.arange(OBJECTS) < rng.integers(1, OBJECTS + 1, images)[:, None]
    corner, size = rng.integers(0, 400, (images, DETECTIONS, 2)), rng.integers(8, 200, (images, DETECTIONS, 2))
    boxes = np.concatenate([corner, corner + size], axis=2).astype(np.float64)
    guessed = rng.choice(classes, (images, DETECTIONS), p=frequency / frequency.sum())
    scores = rng.beta(1, 6, (images, DETECTIONS))
    for copy in range(2):
        here = slice(copy * OBJECTS, (copy + 1) * OBJECTS)
        is_found = known & (rng.random(shape) < 0.8 - 0.5 * copy)
        blur = (rng.normal(0, 0.05 + 0.1 * copy, (*shape, 4)) * np.tile(truth[..., 2:] - truth[..., :2], 2)).round()
        near = truth + blur
        near[..., 2:] = np.maximum(near[..., 2:], near[..., :2] + 1)
        boxes[:, here] = np.where(is_found[..., None], near, boxes[:, here])
        guessed[:, here] = np.where(is_found, labels, guessed[:, here])
        scores[:, here] = np.where(is_found, rng.beta(4 - copy, 2, shape), scores[:, here])
    return {
        "boxes": boxes.astype(np.float32),
        "scores": scores.astype(np.float32),
        "labels": guessed.astype(np.int16),
        "truth_boxes": truth,
        "truth_labels": np.where(known, labels, -1).astype(np.int16),
        "truth_crowd": np.zeros(shape, dtype=bool),
        "truth_area": (truth[..., 2:] - truth[..., :2]).prod(2),
    }


def reference(rows: Rows, classes: int) -> COCOeval_faster:
    def box(corners: Any) -> list[float]:
        x0, y0, x1, y1 = corners.tolist()
        return [x0, y0, x1 - x0, y1 - y0]

    objects = [
        {
            "id": number,
            "image_id": int(i) + 1,
            "category_id": int(rows["truth_labels"][i, j]) + 1,
            "bbox": box(rows["truth_boxes"][i, j]),
            "area": float(rows["truth_area"][i, j]),
            "iscrowd": 0,
        }
        for number, (i, j) in enumerate(np.argwhere(rows["truth_labels"] >= 0), start=1)
    ]
    found = [
        {
            "image_id": int(i) + 1,
            "category_id": int(rows["labels"][i, j]) + 1,
            "bbox": box(rows["boxes"][i, j]),
            "score": float(rows["scores"][i, j]),
        }
        for i, j in np.argwhere(rows["labels"] >= 0)
    ]
    images = [{"id": i + 1, "width": 640, "height": 640} for i in range(len(rows["labels"]))]
    names = [{"id": k + 1, "name": str(k)} for k in range(classes)]
    truth = COCO({"images": images, "annotations": objects, "categories": names})
    return COCOeval_faster(truth, truth.loadRes(found), "bbox")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
