"""Baseline saliency maps that ignore the model: random, uniform, centre."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

Floats = NDArray[np.float32]
CELLS = 8  # along the longer side: a random map is about as smooth as the map of a late layer
CENTRE_WIDTH = 0.25  # standard deviation of the centre prior, in sides of the image


def random_maps(count: int, height: int, width: int, *, seed: int) -> Floats:
    """(N, H, W): smooth noise, another one for each image."""
    longer = max(height, width)
    rows, columns = (max(2, round(CELLS * side / longer)) for side in (height, width))
    noise = np.random.default_rng(seed).standard_normal((count, 1, rows, columns), dtype=np.float32)
    smooth = F.interpolate(torch.from_numpy(noise), (height, width), mode="bilinear", align_corners=False)
    return np.ascontiguousarray(smooth[:, 0].numpy())


def centre_maps(count: int, height: int, width: int) -> Floats:
    """(N, H, W): a Gaussian about the centre, the same for every image."""
    y, x = ((np.arange(side) + 0.5) / side - 0.5 for side in (height, width))
    distance = np.square(y)[:, None] + np.square(x)[None]
    return np.repeat(np.exp(-distance / (2 * CENTRE_WIDTH**2))[None].astype(np.float32), count, axis=0)


def uniform_maps(count: int, height: int, width: int) -> Floats:
    """(N, H, W) of ones."""
    return np.ones((count, height, width), dtype=np.float32)
