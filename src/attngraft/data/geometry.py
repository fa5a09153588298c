"""Which part of a stored image becomes the input at evaluation, and where a point of it ends up."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..config import Preprocessing


class Crop(NamedTuple):
    """A rectangle of pixels."""

    top: int
    left: int
    height: int
    width: int


class Framing(NamedTuple):
    """The steps from a stored image to the input, all in pixels.

    Attributes:
        first: what is cut out of the stored image.
        height, width: what that is scaled to.
        second: what is cut out of the scaled image; square, the input.
    """

    first: Crop
    height: int
    width: int
    second: Crop


def framing(height: int, width: int, preprocessing: Preprocessing) -> Framing:
    """Scale the short side to S / crop_pct, then take the centre; S is the size of the input."""
    size, short = preprocessing.image_size, min(height, width)
    # What lies further out than this is not in the crop; a banner of 10 x 100,000 would take gigabytes.
    first = centre_crop(height, width, min(height, 3 * short), min(width, 3 * short))
    target = max(size, math.floor(size / preprocessing.crop_pct))
    scaled_height, scaled_width = (int(target * side / short) for side in (first.height, first.width))
    return Framing(first, scaled_height, scaled_width, centre_crop(scaled_height, scaled_width, size, size))


def centre_crop(height: int, width: int, crop_height: int, crop_width: int) -> Crop:
    """The middle of an image that is at least that large; odd margins round as in torchvision."""
    return Crop(round((height - crop_height) / 2), round((width - crop_width) / 2), crop_height, crop_width)


def boxes_in_input(boxes: ArrayLike, shapes: ArrayLike, preprocessing: Preprocessing) -> NDArray[np.float64]:
    """Where boxes in stored images lie in the inputs that evaluation makes of these images.

    Args:
        boxes: (N, 4), x0 y0 x1 y1 in pixels of the stored image, ends excluded; NaN where unknown.
        shapes: (N, 2), height and width of the stored image of each box.
        preprocessing: how stored images become inputs of S x S pixels.

    Returns:
        (N, 4), x0 y0 x1 y1 in pixels of the input, cut at its border; NaN where nothing of the box is left.
    """
    given = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    found = np.full_like(given, np.nan)
    for row, (box, (height, width)) in enumerate(zip(given, np.asarray(shapes).reshape(-1, 2).tolist(), strict=True)):
        frame = framing(height, width, preprocessing)
        scale_x, scale_y = frame.width / frame.first.width, frame.height / frame.first.height
        x = (box[0::2] - frame.first.left) * scale_x - frame.second.left
        y = (box[1::2] - frame.first.top) * scale_y - frame.second.top
        x, y = np.clip(x, 0, preprocessing.image_size), np.clip(y, 0, preprocessing.image_size)
        if x[0] < x[1] and y[0] < y[1]:
            found[row] = x[0], y[0], x[1], y[1]
    return found
