"""Find near-duplicates by thumbnails of 8 x 8 pixels.

An image is shrunk to 8 x 8 pixels in colour. Two are alike where the distance of these thumbnails is at most a fifth of
the detail in them, or half a grey level in the mean. That finds copies that were recompressed, resized, given a little
noise or light, and neighbouring frames of a video; not those that were cropped much, mirrored or recoloured.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from ..dataset import ImageSet
from ..read_bands import rgb_preview
from . import first_of_group

SIDE = 8
NUMBERS = 3 * SIDE * SIDE
RELATIVE = 0.2
LEVELS = 0.5
_BLOCK = 2048

Thumbnails = NDArray[np.uint8]


def thumbnails(images: ImageSet) -> Thumbnails:
    """(N, 192): each image averaged over an 8 x 8 grid."""
    found = np.zeros((len(images), NUMBERS), dtype=np.uint8)
    for position in range(len(images)):
        small = torch.nn.functional.adaptive_avg_pool2d(rgb_preview(images.image(position)).float(), SIDE)
        found[position] = small.round().to(torch.uint8).flatten().numpy()
    return found


def resembling(some: Thumbnails, others: Thumbnails) -> NDArray[np.bool_]:
    """(N,) whether an image is alike to any of the others."""
    found = np.zeros(len(some), dtype=bool)
    for start in range(0, len(some), _BLOCK):
        for first in range(0, len(others), _BLOCK):
            block = _alike(some[start : start + _BLOCK], others[first : first + _BLOCK])
            found[start : start + _BLOCK] |= block.any(1)
    return found


def families(some: Thumbnails) -> NDArray[np.int64]:
    """(N,) for every image the position of the first one that it is alike to, over any number of steps."""
    edges = [np.empty((0, 2), dtype=np.int64)]
    for start in range(0, len(some), _BLOCK):
        for first in range(0, start + 1, _BLOCK):
            rows, columns = np.nonzero(_alike(some[start : start + _BLOCK], some[first : first + _BLOCK]))
            met, pairs = np.unique(np.stack([rows + start, columns + first], axis=1), return_inverse=True)
            # one edge for each image of the block, however many are alike
            edges.append(np.stack([met, met[first_of_group(len(met), pairs.reshape(-1, 2))]], axis=1))
    return first_of_group(len(some), np.concatenate(edges))


def _alike(some: Thumbnails, others: Thumbnails) -> NDArray[np.bool_]:
    """(N, M)"""
    one, other = (thumbs.astype(np.float32) - 128 for thumbs in (some, others))
    squares = (one**2).sum(1)[:, None] + (other**2).sum(1)[None] - 2 * one @ other.T
    detail = np.maximum(_detail(one)[:, None], _detail(other)[None])
    return np.asarray(squares <= np.maximum(RELATIVE**2 * detail, NUMBERS * LEVELS**2))


def _detail(thumbs: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N,) sum of squares about the image's own mean."""
    return np.asarray(((thumbs - thumbs.mean(1, keepdims=True)) ** 2).sum(1))
