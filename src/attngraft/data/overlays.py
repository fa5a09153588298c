"""Paint masks over images and boxes around objects, for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

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


def drawn_boxes(
    image: torch.Tensor, boxes: Sequence[NDArray[Any]], preprocessing: Preprocessing, side: int
) -> Image.Image:
    """A stored image as evaluation frames it, once with each set of boxes, in a row; a colour for each class.

    Args:
        image: (C, H, W).
        boxes: each (n, 5), x0 y0 x1 y1 in pixels of the input and the class.
        preprocessing: of the network.
        side: longer side of each picture in pixels.
    """
    framed, found = build_transform("none", preprocessing, train=False).arrange(image), []
    for mine in boxes:
        picture, scale = _sized(framed, side)
        pen = ImageDraw.Draw(picture)
        for x0, y0, x1, y1, label in mine.tolist():
            colour = tuple(class_colours(int(label) + 2)[-1].tolist())  # the first of the colours is black
            left, top = x0 * scale, y0 * scale
            pen.rectangle([left, top, max(left, x1 * scale - 1), max(top, y1 * scale - 1)], outline=colour, width=2)
        found.append(picture)
    return _in_a_row(found)


def _sized(image: torch.Tensor, side: int) -> tuple[Image.Image, float]:
    """An image (C, H, W) with a longer side of `side` pixels, and how many of its pixels one of the image becomes."""
    picture = Image.fromarray(rgb_preview(image).permute(1, 2, 0).contiguous().numpy())
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.BICUBIC), scale


def overlay(image: torch.Tensor, mask: NDArray[np.uint8], side: int) -> Image.Image:
    """An image (C, H, W) with a mask of another size over it, the longer side `side` pixels long.

    Class 0, most often the background, is not painted; pixels that do not count are white.
    """
    picture, _ = _sized(image, side)
    sized = np.asarray(Image.fromarray(mask).resize(picture.size, Image.Resampling.NEAREST))
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
