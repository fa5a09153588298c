"""Simple statistics of images, for drift tests: colour, sharpness, noise, saturation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ...data import ImageSet, rgb_preview

INPUT_STATISTICS = (
    "red mean",
    "green mean",
    "blue mean",
    "red spread",
    "green spread",
    "blue spread",
    "sharpness",
    "noise",
    "saturated pixels",
)
_BATCH_PIXELS = 1 << 20


def input_statistics(images: ImageSet) -> NDArray[np.float32]:
    """Compute simple statistics of every image as it is stored, with values in 0..1; other channels than RGB as grey.

    Mean and standard deviation of each channel; sharpness (mean absolute difference of neighbouring pixels in grey);
    noise (the estimate of Immerkaer, Computer Vision and Image Understanding 64(2), 1996, in grey; 0 for images with
    a side below 3); the part of the values that are 0 or 255.

    Returns:
        (N, F) float32 in the order of `INPUT_STATISTICS`.
    """
    found = np.empty((len(images), len(INPUT_STATISTICS)), dtype=np.float32)
    for positions in _batches(images):
        pixels = np.stack([rgb_preview(images.image(i)).numpy() for i in positions])  # (B, 3, H, W)
        found[positions] = _statistics(pixels)
    return found


def _batches(images: ImageSet) -> Iterator[list[int]]:
    """Positions of images of equal size, in batches."""
    shapes = images.store.shapes[images.rows]
    for height, width in np.unique(shapes, axis=0).tolist():
        members = np.flatnonzero((shapes == (height, width)).all(1)).tolist()
        step = max(1, _BATCH_PIXELS // (height * width))
        yield from (members[start : start + step] for start in range(0, len(members), step))


def _statistics(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(B, 3, H, W) uint8 -> (B, F)."""
    values = pixels.astype(np.float32) / 255
    grey = values.mean(axis=1)
    saturated = ((pixels == 0) | (pixels == 255)).mean(axis=(1, 2, 3))
    numbers = (*values.mean(axis=(2, 3)).T, *values.std(axis=(2, 3)).T, _sharpness(grey), _noise(grey), saturated)
    return np.stack(numbers, axis=1).astype(np.float32)


def _sharpness(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    total = np.zeros(len(grey), dtype=np.float32)
    for axis in (1, 2):
        if grey.shape[axis] > 1:
            total += np.abs(np.diff(grey, axis=axis)).mean(axis=(1, 2))
    return np.asarray(total / 2, dtype=np.float32)


def _noise(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    """The difference of two Laplacians sees noise and hardly any edge."""
    if min(grey.shape[1:]) < 3:
        return np.zeros(len(grey), dtype=np.float32)
    rows = grey[:, :-2] - 2 * grey[:, 1:-1] + grey[:, 2:]
    both = rows[:, :, :-2] - 2 * rows[:, :, 1:-1] + rows[:, :, 2:]
    return np.asarray(np.sqrt(np.pi / 2) / 6 * np.abs(both).mean(axis=(1, 2)), dtype=np.float32)
