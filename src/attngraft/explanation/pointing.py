"""The pointing game: does a map's maximum lie inside the object's box?"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ..data.boxes import Boxes
from ..errors import ConfigError
from .baseline_maps import centre_maps, random_maps, uniform_maps
from .explanation_record import MapPointing, Pointing
from .faithfulness import CENTRE, RANDOM, interval, paired

Floats = NDArray[np.float32]
UNIFORM = "uniform"


def pointing(maps: Mapping[str, Floats], boxes: Boxes, *, seed: int = 0) -> Pointing | None:
    """Hits and energy of each map, beside a uniform map, a prior for the centre and a random map.

    - hits: 1 where the largest value of the map lies in a box, without tolerance; where several places share it,
      the part of them that lie in a box.
    - energy: the part of the map, shifted to a minimum of 0, that lies in the boxes. A pixel that a box covers by
      half counts by half, and a constant map has the boxes' share of the area.

    Args:
        maps: name -> (N, H, W), large where important.
        boxes: for each image (K, 4), x0 y0 x1 y1 in pixels of the map; images without any are left out.
        seed: of the random map.

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
    _check(maps, (len(boxes), height, width))
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
    rows = tuple(
        MapPointing(
            name,
            interval(hit[name]),
            interval(inside[name]),
            None if name == CENTRE else paired(hit[name], hit[CENTRE]),
            None if name == UNIFORM else paired(inside[name], inside[UNIFORM]),
        )
        for name in everything
    )
    return Pointing(count, len(boxes) - count, rows)


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


def _check(maps: Mapping[str, Floats], expected: tuple[int, int, int]) -> None:
    for name, found in maps.items():
        if name in (UNIFORM, CENTRE, RANDOM):
            raise ConfigError(f"a map is called '{name}', as one of the baselines is: choose another name.")
        if found.shape != expected or not np.isfinite(found).all():
            raise ConfigError(f"map '{name}' is {found.shape}: expected finite numbers of the shape {expected}.")
