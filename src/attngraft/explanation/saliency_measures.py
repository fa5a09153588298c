"""How saliency maps do: deletion, insertion and ROAD against a random map, and the pointing game."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import nn

from ..data.boxes import Boxes
from ..errors import ConfigError
from ..statistics.groups import effect_by_group
from ..statistics.interval import Interval
from ..training import Progress
from .explanation_record import Faithfulness, MapCurve, MapFaithfulness, MapPointing, MapRoad, Pointing, in_groups
from .image_source import Groups, Source, View, inputs_of, predict_probabilities
from .perturbation import BLUR, ROAD_FRACTIONS, Curves, check_maps, perturb
from .saliency_maps import centre_maps, random_maps, uniform_maps

Floats = NDArray[np.float32]
RANDOM, CENTRE = "random", "centre prior"
UNIFORM = "uniform"


def faithfulness(
    model: nn.Module,
    images: View | Source,
    maps: Mapping[str, Floats],
    targets: Sequence[int] | NDArray[Any] | None = None,
    *,
    steps: int = 16,
    seed: int = 0,
    groups: Groups = None,
    progress: Progress | None = None,
) -> Faithfulness:
    """Deletion, insertion and ROAD of each map, beside a random map and a prior for the centre.

    - deletion: the most important pixels are replaced by the blurred image, more and more of them. The area under
      the probability of the target class is small for a faithful map.
    - insertion: the image is blurred, and its most important pixels become sharp first. The area is large.
    - ROAD: the probability without the least important pixels minus that without the most important ones, by half.
      Missing pixels are imputed from their neighbours, so that their outline tells nothing. It is large.

    Every map is compared image by image with the random map, which is smooth noise. A map is "faithful" where both
    deletion and insertion are better, with 95 % intervals that exclude 0; "worse than random" where both are worse.
    Where objects are in the middle, a map may be faithful because it marks the middle of every image: so it is
    compared with the centre prior too.

    Args:
        model: a classifier.
        images: N images.
        maps: name -> (N, H, W), large where important.
        targets: (N,), the class whose probability counts; the model's prediction where not given.
        steps: how many steps from no pixel to all of them.
        seed: of the random map, of the order of equally important pixels and of the imputation's noise.
        groups: (N,) of images that belong together, which are then the unit of the intervals.
        progress: where to show progress.

    Returns:
        The maps in order, then the baselines, which are not compared with themselves, nor the random map with the centre.

    Raises:
        ConfigError: fewer than 2 steps; a map of another shape, or one that is not finite, or named as a baseline.

    Source: Petsiuk et al., BMVC 2018, arXiv:1806.07421; Rong et al., ICML 2022, arXiv:2202.00449.
    """
    if steps < 2:
        raise ConfigError(f"steps is {steps}: expected at least 2.")
    _check_names(maps, (RANDOM, CENTRE))
    inputs = inputs_of(model, images)
    wanted = predict_probabilities(model, inputs).argmax(1) if targets is None else np.asarray(targets, dtype=np.int64)
    count, _, height, width = inputs.shape
    baselines = {
        CENTRE: centre_maps(count, height, width),
        RANDOM: random_maps(count, height, width, seed=seed),
    }
    fractions = np.linspace(0, 1, steps + 1)
    found = perturb(model, inputs, {**maps, **baselines}, wanted, fractions, seed=seed, progress=progress)
    rows = tuple(_row(name, found, fractions, groups) for name in found)
    units = None if groups is None else len(np.unique(groups))
    told = summary(rows, count, units)
    return Faithfulness(count, tuple(fractions.tolist()), BLUR, ROAD_FRACTIONS, rows, told, units)


def summary(rows: Sequence[MapFaithfulness], count: int, groups: int | None = None) -> str:
    """One sentence on which maps are faithful; empty where there are baselines only."""
    named: dict[str, list[str]] = {"faithful": [], "not shown": [], "worse than random": []}
    for row in rows:
        if row.map not in (RANDOM, CENTRE) and row.verdict is not None:
            beyond = _is_better(row.deletion.against_centre, row.insertion.against_centre)
            note = "" if row.verdict != "faithful" or beyond else " (not shown to be better than the centre)"
            named[row.verdict].append(row.map + note)
    if not any(named.values()):
        return ""
    rest = "".join(f"; {verdict}: {', '.join(named[verdict])}" for verdict in list(named)[1:] if named[verdict])
    return (
        "Maps that mark what the prediction rests on, better than a random map in deletion and in insertion "
        f"(95 % intervals, n = {in_groups(count, groups)}): {', '.join(named['faithful']) or 'none'}{rest}."
    )


def interval(values: ArrayLike, groups: Groups = None, *, least: float = 0.0, most: float = 1.0) -> Interval:
    """Mean over images with its 95 % interval, cut at what is possible.

    Args:
        values: (N,), one per image.
        groups: (N,) of images that belong together; None where every image stands for itself.
        least, most: the smallest and the largest possible value.
    """
    effect = effect_by_group(np.asarray(values, dtype=np.float64)[None], groups, limit=np.inf)
    return Interval(effect.mean, max(effect.low, least), min(effect.high, most))


def paired(values: ArrayLike, others: ArrayLike, groups: Groups = None) -> Interval:
    """Mean difference over images with its 95 % interval; both (N,) of values from 0 to 1."""
    difference = np.asarray(values, dtype=np.float64) - np.asarray(others, dtype=np.float64)
    return interval(difference, groups, least=-1.0)


def area(curves: Floats, fractions: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, F) -> (N,), the area under each curve by the trapezoidal rule."""
    widths = np.diff(fractions)
    return np.asarray(((curves[:, 1:] + curves[:, :-1]) / 2 * widths).sum(1), dtype=np.float64)


def _row(name: str, found: Mapping[str, Curves], fractions: NDArray[np.float64], groups: Groups) -> MapFaithfulness:
    with_random, with_centre = name != RANDOM, name not in (RANDOM, CENTRE)
    curves = []
    for kind in ("deletion", "insertion"):
        areas = {one: area(getattr(found[one], kind), fractions) for one in (name, RANDOM, CENTRE)}
        curves.append(
            MapCurve(
                tuple(getattr(found[name], kind).mean(0, dtype=np.float64).tolist()),
                interval(areas[name], groups),
                paired(areas[name], areas[RANDOM], groups) if with_random else None,
                paired(areas[name], areas[CENTRE], groups) if with_centre else None,
            )
        )
    deletion, insertion = curves
    road = interval(found[name].road, groups, least=-0.5, most=0.5)
    beyond = paired(found[name].road, found[RANDOM].road, groups) if with_random else None
    verdict = _verdict(deletion.against_random, insertion.against_random)
    return MapFaithfulness(name, deletion, insertion, MapRoad(road.mean, road.low, road.high, beyond), verdict)


def _verdict(deletion: Interval | None, insertion: Interval | None) -> str | None:
    if deletion is None or insertion is None:
        return None
    if _is_better(deletion, insertion):
        return "faithful"
    return "worse than random" if insertion.high < 0 < deletion.low else "not shown"


def _is_better(deletion: Interval | None, insertion: Interval | None) -> bool:
    """Whether both areas are better than those of a baseline."""
    return deletion is not None and insertion is not None and deletion.high < 0 < insertion.low


def pointing(maps: Mapping[str, Floats], boxes: Boxes, *, seed: int = 0, groups: Groups = None) -> Pointing | None:
    """Hits and energy of each map, beside a uniform map, a prior for the centre and a random map.

    - hits: 1 where the largest value of the map lies in a box, without tolerance; where several places share it,
      the part of them that lie in a box.
    - energy: the part of the map, shifted to a minimum of 0, that lies in the boxes. A pixel that a box covers by
      half counts by half, and a constant map has the boxes' share of the area.

    Args:
        maps: name -> (N, H, W), large where important.
        boxes: for each image (K, 4), x0 y0 x1 y1 in pixels of the map; images without any are left out.
        seed: of the random map.
        groups: (N,) of images that belong together, which are then the unit of the intervals.

    Returns:
        The maps in order, then the baselines; None where no image has a box.

    Raises:
        ConfigError: a map of another shape, or one that is not finite, or named as a baseline.

    Source: Zhang et al., ECCV 2016, arXiv:1608.00507; Wang et al., CVPR 2020 workshops, arXiv:1910.01279.
    """
    known = np.array([len(mine) > 0 for mine in boxes], dtype=bool)
    if not maps or not known.any():
        return None
    height, width = next(iter(maps.values())).shape[1:]
    _check_names(maps, (UNIFORM, CENTRE, RANDOM))
    check_maps(maps, (len(boxes), height, width))
    count = int(known.sum())
    cover = np.stack([coverage(mine, height, width) for mine in boxes if len(mine)])
    centres = np.stack([holds_centre(mine, height, width) for mine in boxes if len(mine)])
    baselines = {
        UNIFORM: uniform_maps(count, height, width),
        CENTRE: centre_maps(count, height, width),
        RANDOM: random_maps(count, height, width, seed=seed),
    }
    everything = {name: found[known] for name, found in maps.items()} | baselines
    hit = {name: hits(found, centres) for name, found in everything.items()}
    inside = {name: energy(found, cover) for name, found in everything.items()}
    mine = None if groups is None else groups[known]
    rows = tuple(
        MapPointing(
            name,
            interval(hit[name], mine),
            interval(inside[name], mine),
            None if name == CENTRE else paired(hit[name], hit[CENTRE], mine),
            None if name == UNIFORM else paired(inside[name], inside[UNIFORM], mine),
        )
        for name in everything
    )
    return Pointing(count, len(boxes) - count, rows, None if mine is None else len(np.unique(mine)))


def hits(maps: Floats, inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(N,): of the places where a map (N, H, W) is largest, the part that lies inside (N, H, W)."""
    largest = maps == maps.max((1, 2), keepdims=True)
    return np.asarray((largest & inside).sum((1, 2)) / largest.sum((1, 2)), dtype=np.float64)


def energy(maps: Floats, cover: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N,): the part of each map (N, H, W), less its minimum, that is covered (N, H, W)."""
    shifted = maps.astype(np.float64) - maps.min((1, 2), keepdims=True)
    total = shifted.sum((1, 2))
    share = (shifted * cover).sum((1, 2)) / np.where(total > 0, total, 1)
    return np.where(total > 0, share, cover.mean((1, 2)))


def coverage(boxes: NDArray[np.float64], height: int, width: int) -> NDArray[np.float64]:
    """(H, W): how much of each pixel the boxes (K, 4) cover, 0 to 1; of several boxes the one that covers most."""
    columns = _covered(boxes[:, 0], boxes[:, 2], width)
    rows = _covered(boxes[:, 1], boxes[:, 3], height)
    return np.asarray((rows[:, :, None] * columns[:, None, :]).max(0))


def holds_centre(boxes: NDArray[np.float64], height: int, width: int) -> NDArray[np.bool_]:
    """(H, W): whether the middle of each pixel lies in one of the boxes (K, 4)."""
    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
    columns = (boxes[:, 0, None] <= x) & (x < boxes[:, 2, None])
    rows = (boxes[:, 1, None] <= y) & (y < boxes[:, 3, None])
    return np.asarray((rows[:, :, None] & columns[:, None, :]).any(0))


def _covered(low: NDArray[np.float64], high: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """(K, size): how much of each unit cell lies between low and high."""
    cells = np.arange(size)
    return np.asarray(np.clip(np.minimum(high[:, None], cells + 1) - np.maximum(low[:, None], cells), 0, 1))


def _check_names(maps: Mapping[str, Floats], baselines: Sequence[str]) -> None:
    for name in baselines:
        if name in maps:
            raise ConfigError(f"a map is called '{name}', as one of the baselines is: choose another name.")
