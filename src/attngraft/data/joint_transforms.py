"""Bring an image and what is labelled in it, a mask, to the input of a network together."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..config import Preprocessing
from .geometry import Crop, framing
from .masks import IGNORED

RATIO = (3 / 4, 4 / 3)


@dataclass(frozen=True)
class JointTransform:
    """A callable from a stored image (C, H, W) and its mask (H, W) to both at the size of the input.

    In training random parts, mirror images and colours come from torchvision's transforms v2; evaluation frames as for
    images alone (see `framing`). Borders of the mask do not count.

    Attributes:
        frame: stored image -> input, as evaluation does it.
        preprocessing: size of the input.
        smallest: part of the area that a random crop has at least; None for the whole image, framed.
        mirror: show the mirror image half of the time.
        colours: change brightness, contrast, saturation and hue of RGB images of 8 bits at random.
    """

    frame: Callable[[Tensor], Tensor]
    preprocessing: Preprocessing
    smallest: float | None = None
    mirror: bool = False
    colours: bool = False

    def __call__(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        from torchvision import tv_tensors
        from torchvision.transforms import v2

        if self.smallest is None:
            image, mask = self.frame(image), framed_mask(mask, self.preprocessing)
        else:
            crop = _random_crop(self.smallest, self.preprocessing.size, self.preprocessing.interpolation)
            image, mask = crop(tv_tensors.Image(image), tv_tensors.Mask(mask))
        if self.mirror and torch.rand(()).item() < 0.5:
            image, mask = image.flip(-1), mask.flip(-1)
        if self.colours and image.dtype == torch.uint8 and len(image) == 3:
            image = _distort()(v2.functional.to_image(image))
        return image.as_subclass(Tensor), mask.as_subclass(Tensor)


def framed_mask(mask: Tensor, preprocessing: Preprocessing) -> Tensor:
    """A mask (H, W) as evaluation frames its image; what lies outside of the image does not count."""
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional

    height, width = mask.shape
    frame = framing(height, width, preprocessing)
    found = _cut(mask, frame.first)
    if tuple(found.shape) != (frame.height, frame.width):
        found = functional.resize(found[None], [frame.height, frame.width], InterpolationMode.NEAREST_EXACT)[0]
    return _cut(found, frame.second)


def _cut(mask: Tensor, crop: Crop) -> Tensor:
    """A part of a mask; where it reaches beyond the mask nothing counts."""
    height, width = mask.shape
    top, left = max(0, crop.top), max(0, crop.left)
    inside = mask[top : min(height, crop.top + crop.height), left : min(width, crop.left + crop.width)]
    if tuple(inside.shape) == (crop.height, crop.width):
        return inside
    found = mask.new_full((crop.height, crop.width), IGNORED)
    rows, columns = top - crop.top, left - crop.left
    found[rows : rows + inside.shape[0], columns : columns + inside.shape[1]] = inside
    return found


@functools.cache
def _random_crop(smallest: float, size: tuple[int, int], interpolation: str) -> Any:
    from torchvision.transforms import InterpolationMode, v2

    ratio = tuple(value * size[1] / size[0] for value in RATIO)
    return v2.RandomResizedCrop(
        size, scale=(smallest, 1.0), ratio=ratio, interpolation=InterpolationMode(interpolation)
    )


@functools.cache
def _distort() -> Any:
    from torchvision.transforms import v2

    return v2.RandomPhotometricDistort(p=0.5)
