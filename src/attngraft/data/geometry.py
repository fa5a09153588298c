"""Crop, squash or pad to the input size, and map points from the image to the input."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..config import Preprocessing


class Crop(NamedTuple):
    """A rectangle of pixels; where it reaches beyond the image there is a border."""

    top: int
    left: int
    height: int
    width: int


class Framing(NamedTuple):
    """The steps from a stored image to the input, all in pixels.

    Attributes:
        first: what is cut out of the stored image.
        height, width: what that is scaled to.
        second: what is cut out of the scaled image: the input.
    """

    first: Crop
    height: int
    width: int
    second: Crop


def framing(height: int, width: int, preprocessing: Preprocessing) -> Framing:
    """How evaluation brings an image to the input.

    "crop" scales it until it covers the input divided by crop_pct and takes the centre; "squash" scales it to the input;
    "pad" scales it until it fits into the input and centres it there.
    """
    rows, columns = preprocessing.size
    whole = Crop(0, 0, height, width)
    if preprocessing.resize == "squash":
        return Framing(whole, rows, columns, Crop(0, 0, rows, columns))
    if preprocessing.resize == "pad":
        fitted = fitting(height, width, preprocessing)
        return Framing(whole, *fitted, centre_crop(*fitted, rows, columns))
    # What lies further out than this is not in the crop; a banner of 10 x 100,000 would take gigabytes.
    most = math.ceil(3 * width * rows / columns), math.ceil(3 * height * columns / rows)
    first = centre_crop(height, width, min(height, most[0]), min(width, most[1]))
    target_rows, target_columns = (max(side, math.floor(side / preprocessing.crop_pct)) for side in (rows, columns))
    if target_rows * first.width >= target_columns * first.height:
        scaled = target_rows, int(target_rows * first.width / first.height)
    else:
        scaled = int(target_columns * first.height / first.width), target_columns
    return Framing(first, *scaled, centre_crop(*scaled, rows, columns))


def fitting(height: int, width: int, preprocessing: Preprocessing) -> tuple[int, int]:
    """The largest height and width with this aspect ratio that fit into the input."""
    rows, columns = preprocessing.size
    if rows * width <= columns * height:
        return rows, max(1, round(rows * width / height))
    return max(1, round(columns * height / width)), columns


def part_cut_off(height: int, width: int, size: tuple[int, int]) -> float:
    """Part of an image that cropping to an input of that height and width cuts off for its aspect ratio, from 0 to 1.

    >>> round(part_cut_off(100, 300, (224, 224)), 2)
    0.67
    """
    rows, columns = size
    ratio = (height * columns) / (width * rows)
    return 1 - min(ratio, 1 / ratio)


def centre_crop(height: int, width: int, crop_height: int, crop_width: int) -> Crop:
    """The middle of an image; odd margins round as in torchvision."""
    return Crop(round((height - crop_height) / 2), round((width - crop_width) / 2), crop_height, crop_width)


def boxes_in_input(boxes: ArrayLike, shapes: ArrayLike, preprocessing: Preprocessing) -> NDArray[np.float64]:
    """Where boxes in stored images lie in the inputs that evaluation makes of these images.

    Args:
        boxes: (N, 4), x0 y0 x1 y1 in pixels of the stored image, ends excluded; NaN where unknown.
        shapes: (N, 2), height and width of the stored image of each box.
        preprocessing: how stored images become inputs.

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
        x, y = np.clip(x, 0, preprocessing.size[1]), np.clip(y, 0, preprocessing.size[0])
        if x[0] < x[1] and y[0] < y[1]:
            found[row] = x[0], y[0], x[1], y[1]
    return found
