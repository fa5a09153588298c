"""Overlay saliency maps on input images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ..config import Preprocessing
from ..files import write_atomically
from .saliency_maps import scaled_to

Pixels = NDArray[np.uint8]
LEGIBLE = 160  # pixels: smaller images are enlarged, by whole factors
OPACITY = 0.5


def displayed(image: Tensor, preprocessing: Preprocessing) -> Pixels:
    """An input (C, H, W) as people see it: (H, W, 3), its normalisation taken back.

    Inputs without three channels become grey, from the smallest value to the largest.
    """
    values = image.detach().float().cpu()
    if len(values) == 3:
        mean, std = (torch.tensor(numbers).view(3, 1, 1) for numbers in (preprocessing.mean, preprocessing.std))
        rgb = values * std + mean
    else:
        rgb = torch.from_numpy(_unit(values.mean(0).numpy())).expand(3, -1, -1)
    scaled = rgb.nan_to_num(0.0).clamp(0, 1).mul(255).round()
    return np.ascontiguousarray(scaled.permute(1, 2, 0).numpy().astype(np.uint8))


def enlarged(image: Pixels) -> Pixels:
    """(H, W, 3), each pixel repeated until the image is legible."""
    factor = enlargement(image.shape[0], image.shape[1])
    return np.asarray(image.repeat(factor, 0).repeat(factor, 1))


def enlargement(height: int, width: int) -> int:
    """By what whole factor an image of this size is shown."""
    return max(1, -(-LEGIBLE // min(height, width)))


def overlay(image: Pixels, importance: ArrayLike, *, opacity: float = OPACITY) -> Pixels:
    """Lay a map over an image, from dark (its smallest value) to bright (its largest).

    Args:
        image: (H, W, 3) uint8.
        importance: (h, w), of any size and scale; scaled to the image bilinearly. A constant map is dark.
        opacity: of the colours, 0 to 1.

    Returns:
        uint8, (H, W, 3) times a whole factor that makes small images legible.
    """
    from matplotlib import colormaps

    large = enlarged(image)
    height, width = large.shape[:2]
    smooth = scaled_to(np.asarray(importance, dtype=np.float32)[None], (height, width))[0]
    colours = colormaps["inferno"](_unit(smooth))[..., :3] * 255
    # Grey below the colours: the image's own colours must not be taken for those of the map.
    grey = large.astype(np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    mixed = (1 - opacity) * grey[..., None] + opacity * colours
    return np.asarray(np.clip(np.rint(mixed), 0, 255).astype(np.uint8))


def write_image(path: Path, pixels: Pixels) -> str:
    """Write a PNG atomically; its name is returned."""
    from PIL import Image

    write_atomically(path, lambda temporary: Image.fromarray(pixels).save(temporary, format="PNG"))
    return path.name


def _unit(values: NDArray[Any]) -> NDArray[np.float32]:
    """From 0 for the smallest to 1 for the largest; 0 where all are equal."""
    finite = np.nan_to_num(values.astype(np.float32))
    low, high = float(finite.min()), float(finite.max())
    return np.asarray((finite - low) / (high - low) if high > low else np.zeros_like(finite), dtype=np.float32)
