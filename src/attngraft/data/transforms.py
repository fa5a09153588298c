"""From a stored image to the input of a backbone: everything random happens in 8 bits, floats come last."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from ..config import Preprocessing
from ..errors import ConfigError, nearest
from .geometry import Crop, framing

Level = Literal["none", "light", "strong"]
_LEVELS = ("none", "light", "strong")
_RATIO = (3 / 4, 4 / 3)


@dataclass(frozen=True)
class ImageTransform:
    """A callable (3, H, W) uint8 -> (3, S, S) float32 in two halves, so that a loader can do the second per batch.

    Attributes:
        steps: (3, H, W) uint8 -> (3, S, S) uint8; randomness comes from torch's global CPU generator alone.
        preprocessing: size, mean and standard deviation of the output.
    """

    steps: Sequence[Callable[[torch.Tensor], torch.Tensor]]
    preprocessing: Preprocessing

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        return self.normalise(self.arrange(image))

    def arrange(self, image: torch.Tensor) -> torch.Tensor:
        """(3, H, W) uint8 -> (3, S, S) uint8."""
        for step in self.steps:
            image = step(image)
        return image

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """(..., 3, S, S) uint8 -> float32 with the backbone's mean and standard deviation taken out."""
        mean = torch.tensor(self.preprocessing.mean).mul_(255).view(3, 1, 1)
        std = torch.tensor(self.preprocessing.std).mul_(255).view(3, 1, 1)
        return images.to(torch.float32, memory_format=torch.contiguous_format).sub_(mean).div_(std)


def build_transform(
    level: Level,
    preprocessing: Preprocessing,
    *,
    train: bool,
    mirror: bool = True,
) -> ImageTransform:
    """The transform for training at a level of augmentation, or for evaluation.

    - ``none``: the same as evaluation.
    - ``light``: a random crop of half to all of the area and a mirror image half of the time.
    - ``strong``: a crop of a quarter to all of the area, mirroring, TrivialAugment and random erasing.

    Evaluation scales the short side to S / crop_pct and takes the centre crop.

    Args:
        level: "none", "light" or "strong"; without effect where `train` is False.
        preprocessing: what the backbone wants.
        train: False for evaluation.
        mirror: False for data in which a mirrored image means something else (`Dataset.mirrorable`).

    Raises:
        ConfigError: an unknown level.
    """
    if level not in _LEVELS:
        raise ConfigError(f"unknown augmentation level '{level}': {nearest(str(level), _LEVELS)}")
    if not train or level == "none":
        return ImageTransform((_ShortSide(preprocessing),), preprocessing)
    mirroring = (_mirror_at_random,) if mirror else ()
    if level == "light":
        return ImageTransform((_RandomCrop(preprocessing, smallest=0.5), *mirroring), preprocessing)
    from torchvision.transforms import v2

    fill = [round(255 * value) for value in preprocessing.mean]
    steps = (
        _RandomCrop(preprocessing, smallest=0.25),
        *mirroring,
        v2.TrivialAugmentWide(interpolation=v2.InterpolationMode.BILINEAR, fill=fill),
        v2.RandomErasing(p=0.25, scale=(0.02, 0.25), value=fill),
    )
    return ImageTransform(steps, preprocessing)


def _resize(image: torch.Tensor, height: int, width: int, interpolation: str) -> torch.Tensor:
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional

    if tuple(image.shape[-2:]) == (height, width):
        return image
    return functional.resize(image, [height, width], interpolation=InterpolationMode(interpolation), antialias=True)


def _cut(image: torch.Tensor, crop: Crop) -> torch.Tensor:
    return image[..., crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]


@dataclass(frozen=True)
class _ShortSide:
    """Scale the short side, then crop the centre."""

    preprocessing: Preprocessing

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        frame = framing(image.shape[-2], image.shape[-1], self.preprocessing)
        resized = _resize(_cut(image, frame.first), frame.height, frame.width, self.preprocessing.interpolation)
        return _cut(resized, frame.second)


@dataclass(frozen=True)
class _RandomCrop:
    """Crop a random part of the area (`smallest` to 1) at a random aspect ratio and scale it to the input size."""

    preprocessing: Preprocessing
    smallest: float

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        size = self.preprocessing.image_size
        top, left, height, width = random_box(image.shape[-2], image.shape[-1], self.smallest)
        crop = image[..., top : top + height, left : left + width]
        return _resize(crop, size, size, self.preprocessing.interpolation)


def random_box(height: int, width: int, smallest: float) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random box, drawn as in torchvision's RandomResizedCrop.

    All random numbers come in one draw: per-number calls would take longer than resizing a small image.
    """
    draws = torch.rand(10, 4).tolist()
    log_low, log_high = math.log(_RATIO[0]), math.log(_RATIO[1])
    for area_draw, ratio_draw, top_draw, left_draw in draws:
        area = height * width * (smallest + (1 - smallest) * area_draw)
        ratio = math.exp(log_low + (log_high - log_low) * ratio_draw)
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(top_draw * (height - h + 1)), int(left_draw * (width - w + 1)), h, w
    h = min(height, max(1, round(width / _RATIO[0])))
    w = min(width, max(1, round(height * _RATIO[1])))
    return (height - h) // 2, (width - w) // 2, h, w


def _mirror_at_random(image: torch.Tensor) -> torch.Tensor:
    return image.flip(-1) if torch.rand(()).item() < 0.5 else image
