"""Match detections with true boxes as COCO does, image by image, and name the kind of each error.

Rows of N images with at most D detections and M true boxes, padded where an image has fewer:

- what was predicted: `boxes` (N, D, 4) x0 y0 x1 y1 in pixels, `scores` (N, D) from 0 to 1, `labels` (N, D), -1 = padding
- what is there: `truth_boxes` (N, M, 4), `truth_labels` (N, M), -1 = padding, `truth_crowd` (N, M), `truth_area` (N, M)
- what `match_rows` finds: the fields of `Matches`, which take 17 D + 9 M bytes per image: 13 MB for 5,000 images with 100 of both
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .contract import Array, Floats, Rows

THRESHOLDS: Floats = np.linspace(0.5, 0.95, 10)  # of intersection over union; in these very bits, as COCO has them
RANGES = ("all", "small", "medium", "large")
MOST_DETECTIONS = 100  # of one class in one image
_LIMITS = np.array([(0, 1e10), (0, 32**2), (32**2, 96**2), (96**2, 1e10)])  # of areas in pixels, both included
_BITS = 1 << np.arange(len(THRESHOLDS))
_NEAR = 0.1  # below this overlap a detection has nothing to do with an object
_GIVEN = ("boxes", "scores", "labels", "truth_boxes", "truth_labels", "truth_crowd", "truth_area")
ERRORS = ("background", "class", "localisation", "class and localisation", "duplicate")
_BACKGROUND, _CLASS, _LOCALISATION, _BOTH, _DUPLICATE = range(1, 6)

Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Matches:
    """How the D detections of an image compare with its M true boxes; N images where a first axis counts them.

    Attributes:
        hits: (D, 4) int16 for the ranges of area; bit t is set where a detection is right at `THRESHOLDS[t]`.
        ignored: (D, 4) int16, bit t is set where a detection counts neither as right nor as wrong.
        errors: (D,) uint8 at an overlap of 0.5, 1 to 5 in the order of `ERRORS`, 0 for none.
        truth_ranges: (M,) uint8, bit a is set where a true box counts in range a; 0 for crowds.
        truth_found: (M,) float32, the score of the detection that found it at an overlap of 0.5; -1 where none did.
        truth_near: (M,) float32, the highest score of those that missed only its class or only its place; else -1.
    """

    hits: NDArray[np.int16]
    ignored: NDArray[np.int16]
    errors: NDArray[np.uint8]
    truth_ranges: NDArray[np.uint8]
    truth_found: NDArray[np.float32]
    truth_near: NDArray[np.float32]


def match(
    boxes: ArrayLike,
    scores: ArrayLike,
    labels: ArrayLike,
    truth_boxes: ArrayLike,
    truth_labels: ArrayLike,
    truth_crowd: ArrayLike | None = None,
    truth_area: ArrayLike | None = None,
    most: int = MOST_DETECTIONS,
) -> Matches:
    """Match the detections of one image, best score first, each with the free true box of its class that it overlaps most.

    Crowds and, in a range of areas, objects outside of it are matched last and make a detection ignored; so do
    detections without a match whose own area is outside, and those after the best `most` of a class.

    Args:
        boxes: (D, 4) x0 y0 x1 y1 in pixels.
        scores: (D,), compared as float32.
        labels: (D,) classes.
        truth_boxes: (M, 4).
        truth_labels: (M,).
        truth_crowd: (M,) boxes that stand for many objects, or for what need not be found; none by default.
        truth_area: (M,) of the objects in pixels; of the boxes by default.
        most: detections of one class that count.

    Source: Lin et al., ECCV 2014, arXiv:1405.0312; the values are those of faster-coco-eval and pycocotools.
    """
    boxes, truth_boxes = (np.asarray(given, dtype=np.float64).reshape(-1, 4) for given in (boxes, truth_boxes))
    scores, labels = np.asarray(scores, dtype=np.float32).reshape(-1), np.asarray(labels).reshape(-1)
    truth_labels, count = np.asarray(truth_labels).reshape(-1), len(truth_boxes)
    crowd = np.zeros(count, dtype=bool) if truth_crowd is None else np.asarray(truth_crowd, dtype=bool)
    area = _areas(truth_boxes) if truth_area is None else np.asarray(truth_area, dtype=np.float64)
    order = np.argsort(-scores, kind="stable")
    dropped = _after_the_best(labels, order, most)
    overlap, counted = overlaps(boxes, truth_boxes, crowd), _in_ranges(area) & ~crowd
    is_same = labels[:, None] == truth_labels
    taken = _Taken(np.where(is_same & ~dropped[:, None], overlap, 0), counted, crowd)
    for detection in order[taken.overlap[order].max(1, initial=0) >= THRESHOLDS[0]].tolist():
        taken.choose(detection)
    unmatched_outside = (taken.chosen < 0) & ~_in_ranges(_areas(boxes)).T[:, :, None]
    ignored = ((taken.chosen >= 0) & ~taken.is_hit) | unmatched_outside | dropped[:, None, None]
    found = np.full(count, -1, dtype=np.float32)
    found[taken.chosen[:, 0, 0][taken.is_hit[:, 0, 0]]] = scores[taken.is_hit[:, 0, 0]]
    is_wrong = ~taken.is_hit[:, 0, 0] & ~ignored[:, 0, 0]
    errors, near = _errors(is_wrong, scores, np.where(counted[0], overlap, 0), is_same)
    return Matches(
        hits=(taken.is_hit @ _BITS).astype(np.int16),
        ignored=(ignored @ _BITS).astype(np.int16),
        errors=errors,
        truth_ranges=((1 << np.arange(len(RANGES))) @ counted).astype(np.uint8),
        truth_found=found,
        truth_near=near,
    )


def match_rows(rows: Rows, most: int = MOST_DETECTIONS) -> dict[str, Array]:
    """The fields of `Matches` with a first axis for images, to be kept beside the rows of the predictions and the truth.

    Args:
        rows: `boxes`, `scores`, `labels` and `truth_boxes`, `truth_labels`, `truth_crowd`, `truth_area`, see above.
        most: detections of one class in one image that count.
    """
    predicted, known = rows["labels"] >= 0, rows["truth_labels"] >= 0
    masks = {name: known if name.startswith("truth") else predicted for name in _GIVEN}
    found = [
        match(**{name: rows[name][i][mask[i]] for name, mask in masks.items()}, most=most)
        for i in range(len(predicted))
    ]
    return {
        field.name: _spread([getattr(one, field.name) for one in found], mask, empty)
        for field, mask, empty in zip(fields(Matches), [predicted] * 3 + [known] * 3, (0, 0, 0, 0, -1, -1), strict=True)
    }


def _spread(parts: Sequence[Array], mask: Bools, empty: int) -> Array:
    """The entries of all images at their places, and a value that means nothing at the others."""
    like = parts[0] if parts else np.zeros(0)
    whole = np.full((*mask.shape, *like.shape[1:]), empty, dtype=like.dtype)
    whole[mask] = np.concatenate([like[:0], *parts])
    return whole


def error_counts(rows: Rows, least_score: float = 0.0) -> dict[str, NDArray[np.int64]]:
    """How many errors of each kind every image has, in the manner of TIDE, at an overlap of 0.5.

    A detection that is wrong has one kind, the first of: duplicate (its object was found by a better one), class
    (overlap of 0.5 with an object of another class), localisation (overlap of 0.1 to 0.5 with an object of its class),
    class and localisation (the same with one of another class), background. Missed are the objects that no detection
    found and whose class or place alone no detection missed.

    Args:
        rows: `scores` and what `match_rows` gives.
        least_score: of the detections that are looked at; the rest counts as not there.

    Returns:
        kind -> (N,): those of `ERRORS`, then "missed".

    Source: after Bolya et al., ECCV 2020, arXiv:2008.08115.
    """
    errors = np.where(rows["scores"] >= least_score, rows["errors"], 0)
    found = {kind: (errors == code).sum(1) for code, kind in enumerate(ERRORS, start=1)}
    best = np.maximum(rows["truth_found"], rows["truth_near"])
    is_missed = ((rows["truth_ranges"] & 1) > 0) & ((best < 0) | (best < least_score))
    return {**found, "missed": is_missed.sum(1)}


def overlaps(boxes: Floats, truth_boxes: Floats, crowd: Bools) -> Floats:
    """(D, M) intersection over union; over the area of the detection for crowds, which it may be a part of."""
    low = np.maximum(boxes[:, None, :2], truth_boxes[:, :2])
    high = np.minimum(boxes[:, None, 2:], truth_boxes[:, 2:])
    shared = np.maximum(high - low, 0).prod(2)
    own = _areas(boxes)[:, None]
    whole = np.where(crowd, own, own + _areas(truth_boxes) - shared)
    return np.divide(shared, whole, out=np.zeros_like(shared), where=shared > 0)


class _Taken:
    """Which true boxes are taken, for every range and threshold (A, T), and what each detection took.

    Attributes:
        overlap: (D, M), 0 where classes differ.
        chosen: (D, A, T) the true box of a detection, -1 for none.
        is_hit: (D, A, T), whether it counts in the range.
    """

    def __init__(self, overlap: Floats, counted: Bools, crowd: Bools) -> None:
        shape = (len(RANGES), len(THRESHOLDS))
        self.overlap, self.counted, self.crowd = overlap, counted[:, None, :], crowd
        self.free = np.ones((*shape, len(crowd)), dtype=bool)
        self.chosen = np.full((len(overlap), *shape), -1)
        self.is_hit = np.zeros((len(overlap), *shape), dtype=bool)

    def choose(self, detection: int) -> None:
        """Take the true box with the largest overlap, the last of equal ones, among those that count, or else the others."""
        row = self.overlap[detection]
        near = np.flatnonzero(row >= THRESHOLDS[0])
        near = near[np.argsort(row[near], kind="stable")]
        allowed = self.free[:, :, near] & (row[near] >= THRESHOLDS[:, None])
        rank = np.where(allowed, np.arange(1, len(near) + 1) + len(near) * self.counted[:, :, near], 0)
        at, best = rank.argmax(2), rank.max(2)
        chosen = near[at]
        self.chosen[detection] = np.where(best > 0, chosen, -1)
        self.is_hit[detection] = best > len(near)
        range_, threshold = np.nonzero((best > 0) & ~self.crowd[chosen])
        self.free[range_, threshold, chosen[range_, threshold]] = False


def _errors(
    is_wrong: Bools, scores: Array, overlap: Floats, is_same: Bools
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """`errors` and `truth_near` of `Matches`."""
    own, others = np.where(is_same, overlap, 0), np.where(is_same, 0, overlap)
    same, other = own.max(1, initial=0), others.max(1, initial=0)
    at = THRESHOLDS[0]
    conditions = [~is_wrong, same >= at, other >= at, same >= _NEAR, other >= _NEAR]
    errors = np.select(conditions, [0, _DUPLICATE, _CLASS, _LOCALISATION, _BOTH], _BACKGROUND).astype(np.uint8)
    near = np.full(overlap.shape[1], -1, dtype=np.float32)
    for kind, table in ((_CLASS, others), (_LOCALISATION, own)):
        mine = np.flatnonzero(errors == kind)
        if len(mine):
            np.maximum.at(near, table[mine].argmax(1), scores[mine])
    return errors, near


def _after_the_best(labels: Array, order: NDArray[np.intp], most: int) -> Bools:
    dropped = np.zeros(len(labels), dtype=bool)
    if len(labels) > most:
        for label in np.unique(labels):
            dropped[order[labels[order] == label][most:]] = True
    return dropped


def _areas(boxes: Floats) -> Floats:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _in_ranges(area: Floats) -> Bools:
    """(4, n), whether an area lies in each range."""
    return (area >= _LIMITS[:, :1]) & (area <= _LIMITS[:, 1:])
