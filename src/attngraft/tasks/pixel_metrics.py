"""Metrics of segmentation from the pixels of each image that were hit, predicted and true, class by class.

Rows are `hits`, `predicted` and `truth`, each (N, K) int64: pixels of a class that were predicted as it, pixels that were
predicted as it, and pixels that are of it. Pixels that do not count are in none of them.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from ..errors import ConfigError
from .contract import Array, Floats, Rows

TOLERANCE = 0.0075  # of the image's diagonal (Csurka et al., BMVC 2013)


def class_ious(rows: Rows) -> Floats:
    """(K,) intersection over union of each class over all images, NaN where no image has the class."""
    hits, predicted, truth = _sums(rows)
    return _ratio(hits, predicted + truth - hits, truth > 0)


def mean_iou(rows: Rows) -> float:
    """Mean over the classes that occur of their intersection over union (Everingham et al., IJCV 111, 2015)."""
    return float(np.nanmean(class_ious(rows)))


def mean_iou_without(rows: Rows) -> Floats:
    """(N,) the mean IoU without each image; a class that only this image has keeps its IoU."""
    whole = class_ious(rows)
    occurring = np.isfinite(whole)
    hits, predicted, truth = (total - rows[name] for total, name in zip(_sums(rows), NAMES, strict=True))
    left = _ratio(hits, predicted + truth - hits, truth > 0)
    return np.asarray(np.where(np.isfinite(left), left, whole)[:, occurring].mean(1))


def class_iou(rows: Rows, index: int) -> float:
    """The IoU of one class over all images.

    Raises:
        ConfigError: no image has it.
    """
    found = float(class_ious(rows)[index])
    if not np.isfinite(found):
        raise ConfigError("no test image has the class that the metric is of: choose another metric.")
    return found


def class_iou_without(rows: Rows, index: int) -> Floats:
    hits, predicted, truth = (
        total[index] - rows[name][:, index] for total, name in zip(_sums(rows), NAMES, strict=True)
    )
    return _ratio(hits, predicted + truth - hits, truth > 0)


def pixel_accuracy(rows: Rows) -> float:
    """Part of all pixels whose class was found."""
    return float(rows["hits"].sum() / max(1, rows["truth"].sum()))


def pixel_accuracy_without(rows: Rows) -> Floats:
    hits, truth = (rows[name].sum() - rows[name].sum(1) for name in ("hits", "truth"))
    return _ratio(hits, truth, truth > 0)


def image_ious(rows: Rows) -> Floats:
    """(N,) for each image the mean IoU over the classes that it has or was said to have; 1 where nothing counts."""
    union = rows["predicted"] + rows["truth"] - rows["hits"]
    return _mean_of_image(_ratio(rows["hits"], union, union > 0))


def image_dices(rows: Rows) -> Floats:
    """(N,) for each image the mean Dice coefficient over the classes that it has or was said to have."""
    total = rows["predicted"] + rows["truth"]
    return _mean_of_image(_ratio(2 * rows["hits"], total, total > 0))


def boundary_f1(predicted: Array, truth: Array, ignored: int) -> float:
    """F1 of the boundaries of an image, as the mean over the classes that it has or was said to have.

    A pixel of one boundary is found where the other boundary is at most 0.75 % of the diagonal away, and at least one
    pixel (Csurka et al., BMVC 2013).

    Args:
        predicted, truth: (H, W) index of the class of each pixel.
        ignored: the index in `truth` of pixels that do not count, and have no boundary.
    """
    counting = truth != ignored
    predicted = np.where(counting, predicted, ignored)
    reach = max(1.0, TOLERANCE * float(np.hypot(*truth.shape)))
    found = []
    for index in np.union1d(np.unique(predicted[counting]), np.unique(truth[counting])).tolist():
        said, known = (_boundary(mask, index, counting) for mask in (predicted, truth))
        if not said.any() and not known.any():
            continue  # all pixels that count are of this class
        if not said.any() or not known.any():
            found.append(0.0)
            continue
        precision = float((ndimage.distance_transform_edt(~known)[said] <= reach).mean())
        recall = float((ndimage.distance_transform_edt(~said)[known] <= reach).mean())
        found.append(2 * precision * recall / (precision + recall) if precision + recall else 0.0)
    return float(np.mean(found)) if found else 1.0


NAMES = ("hits", "predicted", "truth")


def _sums(rows: Rows) -> tuple[Array, Array, Array]:
    hits, predicted, truth = (rows[name].sum(0) for name in NAMES)
    return hits, predicted, truth


def _ratio(above: Array, below: Array, defined: Array) -> Floats:
    return np.where(defined, above / np.maximum(below, 1), np.nan)


def _mean_of_image(values: Floats) -> Floats:
    """(N,) means over the classes that are defined; 1 where none is."""
    defined = np.isfinite(values)
    return np.where(defined.any(1), np.where(defined, values, 0).sum(1) / np.maximum(defined.sum(1), 1), 1.0)


def _boundary(mask: Array, index: int, counting: Array) -> Array:
    """Pixels of a class with a neighbour to the side, above or below that counts and is of another class."""
    inside = mask == index
    other = counting & ~inside
    beside = np.zeros_like(inside)
    beside[1:] |= other[:-1]
    beside[:-1] |= other[1:]
    beside[:, 1:] |= other[:, :-1]
    beside[:, :-1] |= other[:, 1:]
    return np.asarray(inside & beside)
