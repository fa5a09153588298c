"""Paint masks over images, for people."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ..config import Preprocessing
from .masks import IGNORED, class_colours
from .read_bands import rgb_preview
from .transforms import build_transform

STRENGTH = 0.55
WHITE = (255, 255, 255)
GAP = 4  # pixels between two pictures


def painted_masks(
    image: torch.Tensor, masks: Sequence[NDArray[np.uint8]], preprocessing: Preprocessing, side: int
) -> Image.Image:
    """A stored image as evaluation frames it, once with each mask, in a row.

    Args:
        image: (C, H, W).
        masks: each (h, w), of the whole input.
        preprocessing: of the network.
        side: longer side of each picture in pixels.
    """
    framed = build_transform("none", preprocessing, train=False).arrange(image)
    return _in_a_row([overlay(framed, mask, side) for mask in masks])


def overlay(image: torch.Tensor, mask: NDArray[np.uint8], side: int) -> Image.Image:
    """An image (C, H, W) with a mask of another size over it, the longer side `side` pixels long.

    Class 0, most often the background, is not painted; pixels that do not count are white.
    """
    picture = Image.fromarray(rgb_preview(image).permute(1, 2, 0).contiguous().numpy())
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    picture = picture.resize(size, Image.Resampling.BICUBIC)
    sized = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
    colours = np.array([*class_colours(IGNORED), WHITE], dtype=np.float32)[sized]
    painted = np.asarray(picture, dtype=np.float32)
    painted = np.where((sized > 0)[..., None], (1 - STRENGTH) * painted + STRENGTH * colours, painted)
    return Image.fromarray(painted.round().astype(np.uint8))


def _in_a_row(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures of one height in a row on white."""
    width = sum(picture.width for picture in pictures) + GAP * (len(pictures) - 1)
    found, left = Image.new("RGB", (width, pictures[0].height), WHITE), 0
    for picture in pictures:
        found.paste(picture, (left, 0))
        left += picture.width + GAP
    return found
