"""Find images that were saved twice: recompressed, resized, brightened or cropped.

Every image is drawn again as a sketch of 24 x 24 pixels. The lowest frequencies of the sketch and of its middle say
which images could be alike, loosely and fast; these are then laid onto each other and compared (`alignment`).
Images that resemble a great many others, such as strokes on black, are alike only where hardly anything differs, and
images without structure, such as an empty sky that only grows lighter towards the ground, are never.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..dataset import ImageSet
from ..read_bands import rgb_preview
from .alignment import agreement
from .details import agree_in_detail

SIDE = 24
_MIDDLE = 0.07  # is cut off each side: half way to the largest crop and a little more, as large crops are harder
_LUMA_WAVES, _CHROMA_WAVES = 6, 3
_FLAT = 30.0  # in units of the weighted waves: about two grey levels
_RESEMBLING, _RESEMBLING_IN_CROWD = 0.87, 0.97
_CLOSEST = 8  # of the images that resemble one
_CROWD, _CROWD_SHARE = 20, 0.002
_LEAST_CORRELATION, _MOST_RESIDUAL, _LEAST_CONTRAST = 0.96, 10.0, 0.7
_LEAST_STRUCTURE, _MOST_OF_STRUCTURE = 4.0, 0.5
_LEAST_CORRELATION_IN_CROWD, _MOST_RESIDUAL_IN_CROWD = 0.995, 4.0
_ROWS, _COLUMNS = 512, 4096
_TO_LUMA_CHROMA = ((0.299, 0.587, 0.114), (0.5, -0.4187, -0.0813), (-0.1687, -0.3313, 0.5))

Sketches = NDArray[np.uint8]
Pairs = NDArray[np.int64]
"""(K, 2), positions in the one set and in the other."""


def sketches(images: ImageSet) -> Sketches:
    """(N, 24, 24, 3): every image shrunk to a square."""
    found = np.zeros((len(images), SIDE, SIDE, 3), dtype=np.uint8)
    for position in range(len(images)):
        image = Image.fromarray(rgb_preview(images.image(position)).permute(1, 2, 0).numpy())
        found[position] = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    return found


def near_pairs(some: Sketches, others: Sketches | None = None) -> Pairs:
    """Pairs of images that are alike, by the second and then by the first.

    Args:
        some: (N, 24, 24, 3).
        others: (M, 24, 24, 3) to compare them with; each other where not given, each pair then in both orders.
    """
    mine = _described(some)
    theirs = mine if others is None else _described(others)
    found = [np.empty((0, 2), dtype=np.int64)]
    for candidates in _candidates(theirs, mine, same=others is None):
        rows, columns = candidates.pairs.T
        pair = some[columns], (some if others is None else others)[rows]
        close, structure = agreement(*pair), np.minimum(*map(_structure, pair))
        least = np.where(candidates.crowded, _LEAST_CORRELATION_IN_CROWD, _LEAST_CORRELATION)
        most = np.where(candidates.crowded, _MOST_RESIDUAL_IN_CROWD, _MOST_RESIDUAL)
        alike = (close.correlation >= least) & (close.residual <= most)
        alike &= (close.residual <= _MOST_OF_STRUCTURE * structure) & (close.contrast >= _LEAST_CONTRAST)
        alike &= structure >= _LEAST_STRUCTURE
        found.append(candidates.pairs[alike][:, ::-1])
    pairs = np.concatenate(found)
    if others is None:
        pairs = np.unique(np.concatenate([pairs, pairs[:, ::-1]]), axis=0)
    return pairs[np.lexsort((pairs[:, 0], pairs[:, 1]))]


def copies(
    some: ImageSet, drawn: Sketches, others: ImageSet | None = None, others_drawn: Sketches | None = None
) -> Pairs:
    """Pairs of images that are alike in their sketches and in their details; the arguments are as for `near_pairs`."""
    pairs = near_pairs(drawn, others_drawn)
    if others is not None:
        return pairs[agree_in_detail(some, others, pairs)]
    once = pairs[pairs[:, 0] < pairs[:, 1]]
    once = once[agree_in_detail(some, some, once)]
    both = np.concatenate([once, once[:, ::-1]])
    return both[np.lexsort((both[:, 0], both[:, 1]))]


@dataclass(frozen=True)
class _Described:
    """Unit vectors (N, D), scalar products of which say how much images resemble each other."""

    whole: Tensor
    middle: Tensor

    def rows(self, first: int, count: int) -> _Described:
        return _Described(self.whole[first : first + count], self.middle[first : first + count])


@dataclass(frozen=True)
class _Candidates:
    pairs: NDArray[np.int64]
    crowded: NDArray[np.bool_]


def _candidates(queries: _Described, gallery: _Described, *, same: bool) -> Iterator[_Candidates]:
    """For some queries at a time the closest of those that they resemble: (query, position in the gallery)."""
    total = len(gallery.whole)
    for first in range(0, len(queries.whole), _ROWS):
        part = queries.rows(first, _ROWS)
        counts = torch.zeros(len(part.whole), dtype=torch.int64)
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        for start in range(0, total, _COLUMNS):
            resemblance = _resemblance(part, gallery.rows(start, _COLUMNS))
            if same:
                _leave_out_self_(resemblance, first - start)
            rows = (resemblance.amax(1) > _RESEMBLING).nonzero().squeeze(1)
            close = resemblance[rows]
            counts[rows] += (close > _RESEMBLING).sum(1)
            values, columns = close.topk(min(_CLOSEST, close.shape[1]), dim=1)
            at, kth = (values > _RESEMBLING).nonzero(as_tuple=True)
            found.append((rows[at], columns[at, kth] + start, values[at, kth]))
        at_rows, at_columns, closeness = (torch.cat(parts).numpy() for parts in zip(*found, strict=True))
        crowded = counts.numpy() > max(_CROWD, _CROWD_SHARE * total)
        kept = _closest(at_rows, closeness)
        kept = kept[~crowded[at_rows[kept]] | (closeness[kept] > _RESEMBLING_IN_CROWD)]
        yield _Candidates(np.stack([at_rows[kept] + first, at_columns[kept]], 1), crowded[at_rows[kept]])


def _closest(rows: NDArray[np.int64], values: NDArray[np.float32]) -> NDArray[np.int64]:
    """Positions of the highest values of each row."""
    order = np.lexsort((-values, rows))
    ordered = rows[order]
    starts = np.searchsorted(ordered, ordered)
    return order[np.arange(len(order)) - starts < _CLOSEST]


def _structure(drawn: Sketches) -> NDArray[np.float64]:
    """(N,) standard deviation of what is left of an image without its mean and its slopes, in grey levels."""
    waves = _waves(2)
    values = torch.from_numpy(drawn).permute(0, 3, 1, 2).float()
    lowest = waves @ values @ waves.T
    lowest[:, :, 1, 1] = 0
    return (values - waves.T @ lowest @ waves).square().mean((1, 2, 3)).sqrt().double().numpy()


def _resemblance(some: _Described, others: _Described) -> Tensor:
    """(N, M): the highest of three, as either may be a crop of the other."""
    found = some.whole @ others.whole.T
    for one, other in ((some.whole, others.middle), (some.middle, others.whole)):
        torch.maximum(found, one @ other.T, out=found)
    return found


def _leave_out_self_(resemblance: Tensor, offset: int) -> None:
    rows = torch.arange(resemblance.shape[0])
    columns = rows + offset
    inside = (columns >= 0) & (columns < resemblance.shape[1])
    resemblance[rows[inside], columns[inside]] = -1


def _described(drawn: Sketches) -> _Described:
    waves = _waves(max(_LUMA_WAVES, _CHROMA_WAVES))
    parts = [drawn[start : start + _COLUMNS] for start in range(0, len(drawn), _COLUMNS)] or [drawn]
    return _Described(
        *(torch.cat([_low_frequencies(part, waves @ cut) for part in parts]) for cut in (torch.eye(SIDE), _middle()))
    )


def _low_frequencies(drawn: Sketches, waves: Tensor) -> Tensor:
    """(N, D): cosine waves of brightness and colour, weighted so that the lowest do not drown the others."""
    colours = torch.tensor(_TO_LUMA_CHROMA) @ torch.from_numpy(drawn).float().flatten(1, 2).transpose(1, 2)
    amplitudes = waves @ colours.unflatten(2, (SIDE, SIDE)) @ waves.T  # (N, 3, K, K)
    counts = torch.arange(len(waves))
    frequency = (counts[:, None] ** 2 + counts[None] ** 2).float().sqrt()
    weighted = amplitudes * frequency.sqrt()
    luma, chroma = ((frequency > 0) & (frequency < most - 0.5) for most in (_LUMA_WAVES, _CHROMA_WAVES))
    described = torch.cat([weighted[:, 0, luma], 1.5 * weighted[:, 1, chroma], 1.5 * weighted[:, 2, chroma]], 1)
    return described / (described.square().sum(1, keepdim=True) + _FLAT**2).sqrt()


def _waves(count: int) -> Tensor:
    """(count, 24): orthonormal cosines of 0, 1, ... half periods."""
    places = (torch.arange(SIDE) + 0.5) / SIDE
    found = torch.cos(torch.pi * torch.arange(count)[:, None] * places)
    return found / found.norm(dim=1, keepdim=True)


def _middle() -> Tensor:
    """(24, 24): stretches the middle of a side over all of it, bilinear."""
    places = (_MIDDLE + (1 - 2 * _MIDDLE) * (torch.arange(SIDE) + 0.5) / SIDE) * SIDE - 0.5
    return (1 - (places[:, None] - torch.arange(SIDE)).abs()).clamp_min(0)
