"""COCO's average precision and recall, with the values when each image, or each group of images, is left out.

Rows are `labels` (N, D), -1 where there is no detection, `scores` (N, D), `truth_labels` (N, M), -1 where there is no
object, and what `box_matching.match_rows` finds. The set of classes is fixed by the objects of all images.

Detections are sorted once. Leaving out images lowers counts of detections and of hits from some ranks on, so that the
curves of many left-out images are computed side by side by cumulative sums.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from .box_matching import MOST_DETECTIONS, RANGES, THRESHOLDS
from .contract import Floats, Metric, Rows, left_out_metric

_LEVELS: Floats = np.linspace(0, 1, 101)  # of recall, where precision is read; in these very bits, as COCO has them
_ALL = tuple(range(len(THRESHOLDS)))
_TINY = 1e-300  # makes 0 of 0 detections 0, and changes nothing else
_AT_ONCE = 1 << 16  # numbers of a table of curves, which stay in the cache

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class BoxMeasure:
    """Average precision, or average recall, over classes and thresholds.

    Attributes:
        classes: how many there are.
        thresholds: positions in `box_matching.THRESHOLDS`.
        area: one of `box_matching.RANGES`.
        is_recall: the recall of all detections instead of the area under the curve of precision.
    """

    classes: int
    thresholds: tuple[int, ...] = _ALL
    area: str = "all"
    is_recall: bool = False

    def value(self, rows: Rows) -> float:
        """The mean over the classes that occur.

        Raises:
            ConfigError: none does, in this range of areas.
        """
        found = self.per_class(rows)
        if np.isnan(found).all():
            size = "" if self.area == "all" else f" of {self.area} area"
            raise ConfigError(f"the test images have no objects{size}: average precision and recall need some.")
        return float(np.nanmean(found))

    def per_class(self, rows: Rows) -> Floats:
        """(K,) one value per class, NaN where there is no object of it."""
        found = np.full(self.classes, np.nan)
        for one in self._classes(rows, np.zeros(len(rows["labels"]), dtype=np.int64)):
            found[one.label] = np.mean([self._whole(one, t) for t in self.thresholds])
        return found

    def without(self, rows: Rows, index: Integers) -> Floats:
        """(C,) the values when each group of images is left out.

        Args:
            rows: of N images.
            index: (N,) the group of each, from 0 to C - 1.
        """
        change, present = np.zeros(int(index.max()) + 1), 0
        for one in self._classes(rows, index):
            present += 1
            # a class whose only images are left out keeps its value, so that the set of classes stays
            touched = np.flatnonzero(one.touched & (one.objects < one.positives))
            for t in self.thresholds:
                change[touched] += self._left_out(one, t, touched) - self._whole(one, t)
        return self.value(rows) + change / (max(present, 1) * len(self.thresholds))

    def _whole(self, one: _OneClass, threshold: int) -> float:
        hit, _ = one.counted(threshold)
        return float(hit.sum() / one.positives) if self.is_recall else _precision(hit, one.positives)

    def _left_out(self, one: _OneClass, threshold: int, touched: Integers) -> Floats:
        """The values without the groups that are touched, in their order."""
        hit, group = one.counted(threshold)
        remaining = one.positives - one.objects[touched]
        if self.is_recall:
            return (hit.sum() - np.bincount(group[hit], minlength=len(one.objects))[touched]) / remaining
        return _precision_without(hit, group, touched, remaining, one.positives)

    def _classes(self, rows: Rows, index: Integers) -> Iterator[_OneClass]:
        """The classes that occur, in their order."""
        area, groups = RANGES.index(self.area), int(index.max(initial=0)) + 1
        labels, counts = rows["labels"], (rows["truth_ranges"] >> area) & 1
        image, place = np.nonzero(labels >= 0)
        order = np.lexsort((-rows["scores"][image, place], labels[image, place]))
        image, place = image[order], place[order]
        ends = np.searchsorted(labels[image, place], np.arange(self.classes + 1))
        own_image, own_place = np.nonzero(counts)
        own = np.bincount(
            rows["truth_labels"][own_image, own_place].astype(np.int64) * groups + index[own_image],
            minlength=self.classes * groups,
        ).reshape(self.classes, groups)
        for label in np.flatnonzero(own.any(1)).tolist():
            mine = slice(ends[label], ends[label + 1])
            hits, ignored = (rows[name][image[mine], place[mine], area] for name in ("hits", "ignored"))
            yield _OneClass(label, hits, ignored, index[image[mine]], own[label])


@dataclass(frozen=True, eq=False)
class _OneClass:
    """The detections of a class, best score first, and its objects.

    Attributes:
        label: the class.
        hits: (n,) bits of `box_matching.Matches` in one range of areas.
        ignored: (n,) the same.
        group: (n,) which group of images they are in.
        objects: (C,) of each group that count.
    """

    label: int
    hits: NDArray[np.int16]
    ignored: NDArray[np.int16]
    group: Integers
    objects: Integers

    @property
    def positives(self) -> int:
        return int(self.objects.sum())

    @property
    def touched(self) -> NDArray[np.bool_]:
        """(C,), whether a group has detections or objects of the class."""
        return (self.objects > 0) | (np.bincount(self.group, minlength=len(self.objects)) > 0)

    def counted(self, threshold: int) -> tuple[NDArray[np.bool_], Integers]:
        """Of the detections that are right or wrong at a threshold, whether each is right, and its group."""
        kept = np.flatnonzero((self.ignored >> threshold) & 1 == 0)
        return ((self.hits[kept] >> threshold) & 1).astype(bool), self.group[kept]


def average_precision_metrics(classes: int) -> dict[str, Metric]:
    """COCO's twelve numbers but for recall with fewer detections; the first is the primary one.

    Args:
        classes: how many there are.
    """
    sizes = RANGES[1:]
    measures = {
        "ap": ("AP50:95", BoxMeasure(classes)),
        "ap50": ("AP50", BoxMeasure(classes, thresholds=(0,))),
        "ap75": ("AP75", BoxMeasure(classes, thresholds=(5,))),
        **{f"ap-{size}": (f"AP50:95 of {size} objects", BoxMeasure(classes, area=size)) for size in sizes},
        "ar": (f"AR{MOST_DETECTIONS}", BoxMeasure(classes, is_recall=True)),
        **{
            f"ar-{size}": (f"AR{MOST_DETECTIONS} of {size} objects", BoxMeasure(classes, area=size, is_recall=True))
            for size in sizes
        },
    }
    return {name: _metric(name, label, measure) for name, (label, measure) in measures.items()}


def _metric(name: str, label: str, measure: BoxMeasure) -> Metric:
    def without(rows: Rows) -> Floats:
        return measure.without(rows, np.arange(len(rows["labels"])))

    return left_out_metric(
        name, label, measure.value, without, per_output=measure.per_class, without_groups=measure.without
    )


def _precision(hit: NDArray[np.bool_], positives: int) -> float:
    """Mean over the levels of recall of the best precision at that recall or a higher one."""
    ends, found = _runs(hit)
    envelope = np.maximum.accumulate((found / (ends + 1))[::-1])[::-1]
    reached = _levels_reached(np.array([positives]), positives)[0, found]
    return float((envelope * np.diff(reached, prepend=np.uint8(0))).sum() / len(_LEVELS))


def _runs(hit: NDArray[np.bool_]) -> tuple[Integers, Integers]:
    """Where hits are followed by a miss or the end, and how many hits there are up to there.

    Only there precision can be best: it rises with every hit.
    """
    ends = np.flatnonzero(hit & ~np.append(hit[1:], False))
    return ends, np.cumsum(hit, dtype=np.int64)[ends]


def _precision_without(
    hit: NDArray[np.bool_], group: Integers, touched: Integers, remaining: Integers, positives: int
) -> Floats:
    """(C,) `_precision` when the detections of each of some groups are left out.

    Args:
        hit: (n,) detections in order, whether each is right.
        group: (n,) of each detection.
        touched: (C,) groups, in rising order, that hold all of `group` that change anything.
        remaining: (C,) objects without them, at least 1.
        positives: objects with them.
    """
    ends, found = _runs(hit)
    result = np.zeros(len(touched))
    if not len(ends):
        return result
    numbers, kind = np.unique(remaining, return_inverse=True)
    levels, offsets = _levels_reached(numbers, positives).reshape(-1), kind.reshape(-1) * (positives + 1)
    # a detection is missing from the first run that ends at it or later
    run, member = np.searchsorted(ends, np.arange(len(hit))), np.searchsorted(touched, group)
    known = (run < len(ends)) & (member < len(touched))
    known[known] = touched[member[known]] == group[known]
    order = np.flatnonzero(known)[np.argsort(member[known], kind="stable")]
    run, member, right = run[order], member[order], hit[order]
    width = max(1, _AT_ONCE // len(ends))
    for start in range(0, len(touched), width):
        size = min(width, len(touched) - start)
        first, last = np.searchsorted(member, (start, start + size))
        cell, is_hit = run[first:last] * size + member[first:last] - start, right[first:last]
        lost = np.bincount(cell, minlength=len(ends) * size).reshape(-1, size).cumsum(0)
        lost_hits = np.bincount(cell[is_hit], minlength=len(ends) * size).reshape(-1, size).cumsum(0)
        kept_hits = found[:, None] - lost_hits
        envelope = kept_hits / ((ends + 1)[:, None] - lost + _TINY)
        envelope = np.maximum.accumulate(envelope[::-1], axis=0)[::-1]
        reached = levels[kept_hits + offsets[start : start + size]]
        steps = np.diff(reached, axis=0, prepend=np.uint8(0))
        result[start : start + size] = np.einsum("rc,rc->c", envelope, steps) / len(_LEVELS)
    return result


def _levels_reached(positives: Integers, most: int) -> NDArray[np.uint8]:
    """(len(positives), most + 1) how many levels of recall are reached by 0, 1, ... hits; of as many objects each.

    Recall is rounded and compared as COCO does it: 7 of 100 do not reach the level 0.07, which is 0.07000000000000001.
    """
    count = positives[:, None]
    needed = np.ceil(_LEVELS * count).astype(np.int64)  # or one more or less
    needed -= (needed - 1) / count >= _LEVELS
    needed += needed / count < _LEVELS
    reached = np.zeros((len(positives), most + 2), dtype=np.uint8)
    row = np.repeat(np.arange(len(positives)), len(_LEVELS))
    np.add.at(reached, (row, np.minimum(needed.reshape(-1), most + 1)), 1)
    return reached[:, :-1].cumsum(1, dtype=np.uint8)
