"""Augmentation of whole batches: what moves or covers every image, drawn for each and done to all at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .splits import hash64

SHIFT = 1 / 8  # of the side: 4 of 32 pixels, the usual crop of CIFAR


@dataclass(frozen=True)
class BatchAugmentation:
    """Shifts, mirror images and holes (DeVries and Taylor, arXiv:1708.04552).

    Attributes:
        shift: longest way that an image is moved, as a part of its sides; what comes into sight is reflected.
        mirror: show the mirror image half of the time.
        cutout: side of a square that is painted in the mean colour, as a part of the input's sides.
    """

    shift: float = 0.0
    mirror: bool = False
    cutout: float = 0.0

    def draws(self, seed: int, epoch: int, indices: Sequence[int]) -> NDArray[np.float64]:
        """(N, 5) numbers from 0 to below 1 that depend on the seed, the epoch and the sample alone."""
        start = np.uint64(hash64("batch", seed, epoch))
        counters = np.asarray(indices, np.uint64)[:, None] * np.uint64(5) + np.arange(5, dtype=np.uint64)
        return _mixed(start + counters).astype(np.float64) / 2.0**64

    def move(self, images: Tensor, draws: NDArray[np.float64]) -> Tensor:
        """(N, C, H, W) of any type, moved and mirrored."""
        if not self.shift and not self.mirror:
            return images
        height, width = images.shape[-2:]
        (above, tops), (before, lefts) = _moves(height, self.shift, draws[:, 0]), _moves(width, self.shift, draws[:, 1])
        wider = images.index_select(-2, _reflected(height, above)).index_select(-1, _reflected(width, before)).numpy()
        moved = np.empty(tuple(images.shape), wider.dtype)
        for image, whole, top, left, draw in zip(moved, wider, tops, lefts, draws[:, 2].tolist(), strict=True):
            part = whole[:, top : top + height, left : left + width]
            image[:] = part[..., ::-1] if self.mirror and draw < 0.5 else part
        return torch.from_numpy(moved)

    def cover_(self, images: Tensor, draws: NDArray[np.float64]) -> Tensor:
        """(N, C, H, W) float32, normalised, with a square of zeros in each; its centre may be anywhere in the image."""
        if not self.cutout:
            return images
        height, width = images.shape[-2:]
        tall, wide = round(self.cutout * height), round(self.cutout * width)
        tops = (draws[:, 3] * height).astype(int) - tall // 2
        lefts = (draws[:, 4] * width).astype(int) - wide // 2
        for image, top, left in zip(images.numpy(), tops.tolist(), lefts.tolist(), strict=True):
            image[:, max(top, 0) : max(top + tall, 0), max(left, 0) : max(left + wide, 0)] = 0
        return images


def _moves(side: int, shift: float, draws: NDArray[np.float64]) -> tuple[int, list[int]]:
    """How far images are extended beyond each border, and where each is cut out of that."""
    longest = min(round(shift * side), side - 1)
    return longest, (draws * (2 * longest + 1)).astype(int).tolist()


def _reflected(side: int, beyond: int) -> Tensor:
    """(side + 2 beyond) the pixel that comes to each place, reflected at the borders."""
    places = torch.arange(-beyond, side + beyond).abs()
    return side - 1 - (side - 1 - places).abs()


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): independent numbers from successive ones."""
    with np.errstate(over="ignore"):
        values = values * np.uint64(0x9E3779B97F4A7C15)
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(values ^ (values >> np.uint64(31)))
