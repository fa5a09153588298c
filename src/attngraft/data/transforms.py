"""Augmentation and normalisation, from stored pixels to the input of a backbone."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ..config import Preprocessing
from ..errors import ConfigError, nearest
from .batch_augmentation import SHIFT, BatchAugmentation
from .box_transforms import BoxTransform
from .geometry import Crop, Framing, centre_crop, fitting, framing
from .joint_transforms import JointTransform

Level = Literal["none", "shift", "light", "strong"]
_LEVELS = ("none", "shift", "light", "strong")
_RATIO = (3 / 4, 4 / 3)


@dataclass(frozen=True)
class ImageTransform:
    """A callable from a stored image (C, H, W) to the input, in two halves, so that a loader can do the second per batch.

    Stored images are uint8, or float32 in units of 0 to 1.

    Attributes:
        steps: stored image -> input in the type of the image; randomness comes from torch's global CPU generator alone.
        preprocessing: size, mean and standard deviation of the output.
        is_random: whether the steps draw random numbers.
        whole: what is done to all images of a batch at once.
        joint: what is done instead of the steps where images have masks.
        boxes: what is done instead of the steps where objects in images have boxes.
    """

    steps: Sequence[Callable[[torch.Tensor], torch.Tensor]]
    preprocessing: Preprocessing
    is_random: bool = False
    whole: BatchAugmentation | None = None
    joint: JointTransform | None = None
    boxes: BoxTransform | None = None

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        return self.normalise(self.arrange(image))

    def arrange(self, image: torch.Tensor) -> torch.Tensor:
        """The image at the size of the input, in its own type."""
        for step in self.steps:
            image = step(image)
        return image

    def batch(self, arranged: Sequence[torch.Tensor], draws: NDArray[np.float64] | None = None) -> torch.Tensor:
        """The inputs (N, C, H, W) float32 of images that were arranged, also where 8-bit ones are among others.

        Args:
            arranged: from `arrange`.
            draws: (N, 5) for what is done to whole batches, see `BatchAugmentation`; without them it is left out.
        """
        if len({image.dtype for image in arranged}) > 1:
            arranged = [image / 255 if image.dtype == torch.uint8 else image for image in arranged]
        images = torch.stack(list(arranged))
        if self.whole is None or draws is None:
            return self.normalise(images)
        return self.whole.cover_(self.normalise(self.whole.move(images, draws)), draws)

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """float32 with the backbone's mean and standard deviation taken out."""
        white = 255 if images.dtype == torch.uint8 else 1
        mean, std = (
            torch.tensor(numbers).mul_(white).view(-1, 1, 1)
            for numbers in (self.preprocessing.mean, self.preprocessing.std)
        )
        floats = images.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
        return floats.sub_(mean).div_(std)


def build_transform(
    level: Level,
    preprocessing: Preprocessing,
    *,
    train: bool,
    mirror: bool = True,
    cutout: float = 0.0,
) -> ImageTransform:
    """The transform for training at a level of augmentation, or for evaluation.

    - ``none``: the same as evaluation.
    - ``shift``: moved by up to an eighth of the side and mirrored half of the time, as usual for small images.
    - ``light``: a random crop of half to all of the area and a mirror image half of the time.
    - ``strong``: a crop of a quarter to all of the area, mirroring, TrivialAugment and random erasing; of TrivialAugment
      only what moves pixels where images are neither grey nor RGB of 8 bits.

    Images with masks get random crops of the same area, mirror images and, for ``strong``, random colours. Images with
    boxes get another scale and place, mirror images and, for ``strong``, parts that overlap objects, a larger canvas and
    random colours. ``shift`` and `cutout` are for neither.

    Evaluation: see `framing`. Random crops are brought to the input as `preprocessing.resize` says: "crop" draws them
    in the input's aspect ratio, give or take a third, "squash" and "pad" in that of the image.

    Args:
        level: "none", "shift", "light" or "strong"; without effect where `train` is False.
        preprocessing: what the backbone wants.
        train: False for evaluation.
        mirror: False for data in which a mirrored image means something else (`Dataset.mirrorable`).
        cutout: side of a square that is covered in each training image, as a part of the input's; 0 for none.

    Raises:
        ConfigError: an unknown level.
    """
    if level not in _LEVELS:
        raise ConfigError(f"unknown augmentation level '{level}': {nearest(str(level), _LEVELS)}")
    frame = _Framed(preprocessing)
    plain, boxes = JointTransform(frame, preprocessing), BoxTransform(frame, preprocessing)
    if not train:
        return ImageTransform((frame,), preprocessing, joint=plain, boxes=boxes)
    whole = BatchAugmentation(cutout=cutout) if cutout else None
    if level == "shift":
        whole = BatchAugmentation(SHIFT, mirror, cutout)
        return ImageTransform((frame,), preprocessing, whole=whole)
    if level == "none":
        return ImageTransform((frame,), preprocessing, whole=whole, joint=plain, boxes=boxes)
    mirroring = (_mirror_at_random,) if mirror else ()
    joint = JointTransform(frame, preprocessing, 0.5 if level == "light" else 0.25, mirror, level == "strong")
    boxes = BoxTransform(frame, preprocessing, level, mirror)
    if level == "light":
        steps: Sequence[Callable[[torch.Tensor], torch.Tensor]] = (_RandomCrop(preprocessing, smallest=0.5), *mirroring)
    else:
        crop = _RandomCrop(preprocessing, smallest=0.25)
        steps = (crop, *mirroring, _Augmented(preprocessing), _Erased(preprocessing))
    return ImageTransform(steps, preprocessing, is_random=True, whole=whole, joint=joint, boxes=boxes)


def build_views(preprocessing: Preprocessing) -> tuple[ImageTransform, ...]:
    """The transforms of test-time augmentation: evaluation's own, and where that crops, the same at the four corners.

    Source: Krizhevsky et al., NeurIPS 2012, whose ten crops are these and their mirror images.
    """
    corners = ((0, 0), (0, 1), (1, 0), (1, 1)) if preprocessing.resize == "crop" else ()
    frames = (_Framed(preprocessing), *(_Framed(preprocessing, corner) for corner in corners))
    return tuple(ImageTransform((frame,), preprocessing) for frame in frames)


def _resize(image: torch.Tensor, height: int, width: int, interpolation: str) -> torch.Tensor:
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional

    if tuple(image.shape[-2:]) == (height, width):
        return image
    return functional.resize(image, [height, width], interpolation=InterpolationMode(interpolation), antialias=True)


def _cut(image: torch.Tensor, crop: Crop, fill: list[float] | None = None) -> torch.Tensor:
    """A part of an image, with a border in the colour `fill` where the part reaches beyond it."""
    height, width = image.shape[-2:]
    top, left = max(0, crop.top), max(0, crop.left)
    bottom, right = min(height, crop.top + crop.height), min(width, crop.left + crop.width)
    inside = image[..., top:bottom, left:right]
    if inside.shape[-2:] == (crop.height, crop.width):
        return inside
    colour = torch.tensor(fill, dtype=image.dtype).view(-1, 1, 1)
    canvas = colour.expand(-1, crop.height, crop.width).clone()
    canvas[..., top - crop.top : bottom - crop.top, left - crop.left : right - crop.left] = inside
    return canvas


def _mean_colour(image: torch.Tensor, preprocessing: Preprocessing) -> list[float]:
    """The colour that becomes zero, in the units of the image."""
    is_8_bit = image.dtype == torch.uint8
    return [round(255 * value) if is_8_bit else value for value in preprocessing.mean]


@dataclass(frozen=True)
class _Framed:
    """Bring an image to the input as evaluation does, or with the last crop in a corner: (is bottom, is right)."""

    preprocessing: Preprocessing
    corner: tuple[int, int] | None = None

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        frame = framing(image.shape[-2], image.shape[-1], self.preprocessing)
        resized = _resize(_cut(image, frame.first), frame.height, frame.width, self.preprocessing.interpolation)
        return _cut(resized, self._last(frame), _mean_colour(image, self.preprocessing))

    def _last(self, frame: Framing) -> Crop:
        if self.corner is None:
            return frame.second
        (bottom, right), (rows, columns) = self.corner, self.preprocessing.size
        return Crop(bottom * (frame.height - rows), right * (frame.width - columns), rows, columns)


@dataclass(frozen=True)
class _RandomCrop:
    """Crop a random part of the area (`smallest` to 1) at a random aspect ratio and bring it to the input."""

    preprocessing: Preprocessing
    smallest: float

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        rows, columns = self.preprocessing.size
        aspect = columns / rows if self.preprocessing.resize == "crop" else image.shape[-1] / image.shape[-2]
        top, left, height, width = random_box(image.shape[-2], image.shape[-1], self.smallest, aspect)
        crop = image[..., top : top + height, left : left + width]
        if self.preprocessing.resize != "pad":
            return _resize(crop, rows, columns, self.preprocessing.interpolation)
        fitted = fitting(height, width, self.preprocessing)
        resized = _resize(crop, *fitted, self.preprocessing.interpolation)
        return _cut(resized, centre_crop(*fitted, rows, columns), _mean_colour(image, self.preprocessing))


def random_box(height: int, width: int, smallest: float, aspect: float = 1.0) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random box, drawn as in torchvision's RandomResizedCrop.

    Its width over height is `aspect` times 3/4 to 4/3.

    All random numbers come in one draw: per-number calls would take longer than resizing a small image.
    """
    draws = torch.rand(10, 4).tolist()
    log_low, log_high = math.log(_RATIO[0]), math.log(_RATIO[1])
    for area_draw, ratio_draw, top_draw, left_draw in draws:
        area = height * width * (smallest + (1 - smallest) * area_draw)
        ratio = aspect * math.exp(log_low + (log_high - log_low) * ratio_draw)
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(top_draw * (height - h + 1)), int(left_draw * (width - w + 1)), h, w
    h = min(height, max(1, round(width / (aspect * _RATIO[0]))))
    w = min(width, max(1, round(height * (aspect * _RATIO[1]))))
    return (height - h) // 2, (width - w) // 2, h, w


@dataclass(frozen=True)
class _Augmented:
    """TrivialAugment on 8-bit grey and RGB; elsewhere one of its moves: shear, shift, rotation or none."""

    preprocessing: Preprocessing

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        from torchvision.transforms import v2

        fill, bilinear = _mean_colour(image, self.preprocessing), v2.InterpolationMode.BILINEAR
        if image.dtype == torch.uint8 and len(image) in (1, 3):
            return _trivial_augment(tuple(fill))(image)
        kind, strength = torch.randint(6, ()).item(), 2 * torch.rand(()).item() - 1
        shear = math.degrees(math.atan(0.99 * strength))
        return v2.functional.affine(
            image,
            angle=135.0 * strength if kind == 1 else 0.0,
            translate=[round(32 * strength) * (kind == 2), round(32 * strength) * (kind == 3)],
            scale=1.0,
            shear=[shear * (kind == 4), shear * (kind == 5)],
            interpolation=bilinear,
            fill=fill,
        )


@dataclass(frozen=True)
class _Erased:
    """Paint a random rectangle in the mean colour, a quarter of the time."""

    preprocessing: Preprocessing

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        return _random_erasing(tuple(_mean_colour(image, self.preprocessing)))(image)


@functools.cache
def _trivial_augment(fill: tuple[float, ...]) -> Callable[[torch.Tensor], torch.Tensor]:
    from torchvision.transforms import v2

    augment: Callable[[torch.Tensor], torch.Tensor] = v2.TrivialAugmentWide(
        interpolation=v2.InterpolationMode.BILINEAR, fill=list(fill)
    )
    return augment


@functools.cache
def _random_erasing(colour: tuple[float, ...]) -> Callable[[torch.Tensor], torch.Tensor]:
    from torchvision.transforms import v2

    erase: Callable[[torch.Tensor], torch.Tensor] = v2.RandomErasing(p=0.25, scale=(0.02, 0.25), value=list(colour))
    return erase


def _mirror_at_random(image: torch.Tensor) -> torch.Tensor:
    return image.flip(-1) if torch.rand(()).item() < 0.5 else image
