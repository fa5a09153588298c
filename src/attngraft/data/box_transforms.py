"""Bring an image and the boxes of its objects to the input of a network together."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ..config import Preprocessing
from .geometry import framing
from .object_boxes import Objects, as_target

SCALES = (0.6, 1.4)  # of an image that fits into the input
_LEAST_SIDE = 1.0  # pixels of what is left of a box


@dataclass(frozen=True)
class BoxTransform:
    """A callable from a stored image (C, H, W) and its objects to the input and a target, see `BoxTarget`.

    In training torchvision's transforms v2 scale, crop and mirror; evaluation frames as for images alone (see `framing`).
    What is left of a box that is cut keeps its label, and an object of which nothing is left is left out.

    Attributes:
        frame: stored image -> input, as evaluation does it.
        preprocessing: size of the input.
        level: "none" for the whole image, framed; "light" for another scale and place; "strong" for parts of the image
            chosen by their overlap with objects, on a larger canvas, in other colours too.
        mirror: show the mirror image half of the time.
    """

    frame: Callable[[Tensor], Tensor]
    preprocessing: Preprocessing
    level: Literal["none", "light", "strong"] = "none"
    mirror: bool = False

    def __call__(self, image: Tensor, objects: Objects) -> tuple[Tensor, dict[str, Tensor]]:
        target = as_target(objects)
        if self.level == "none":
            return self.frame(image), framed_boxes(target, image.shape[-2:], self.preprocessing)
        from torchvision import tv_tensors

        canvas: Any = tuple(image.shape[-2:])
        boxes = tv_tensors.BoundingBoxes(target["boxes"], format="XYXY", canvas_size=canvas)  # type: ignore[call-arg]
        for step in self._steps(image):
            image, boxes = step(tv_tensors.Image(image), boxes)
        rows, columns = self.preprocessing.size
        moved = boxes.as_subclass(Tensor).clamp(torch.zeros(4), torch.tensor([columns, rows] * 2, dtype=torch.float32))
        return image.as_subclass(Tensor), _kept(target, moved)

    def _steps(self, image: Tensor) -> Sequence[Any]:
        is_8_bit = image.dtype == torch.uint8
        fill = tuple(round(255 * value) if is_8_bit else value for value in self.preprocessing.mean)
        has_colours = is_8_bit and len(image) == 3
        return _transforms(self.level, self.mirror, has_colours, fill, self.preprocessing)


def framed_boxes(target: dict[str, Tensor], shape: Sequence[int], preprocessing: Preprocessing) -> dict[str, Tensor]:
    """A target in pixels of the input that evaluation makes of a stored image of this height and width."""
    frame = framing(int(shape[0]), int(shape[1]), preprocessing)
    across, down = frame.width / frame.first.width, frame.height / frame.first.height
    factors = torch.tensor([across, down] * 2)
    first = torch.tensor([frame.first.left, frame.first.top] * 2)
    second = torch.tensor([frame.second.left, frame.second.top] * 2)
    rows, columns = preprocessing.size
    whole = (target["boxes"] - first) * factors - second
    boxes = whole.clamp(torch.zeros(4), torch.tensor([columns, rows] * 2, dtype=torch.float32))
    left = _areas(boxes) / _areas(whole).clamp_min(1e-9)
    found = _kept({**target, "area": target["area"] * left}, boxes, least=0.0)
    return {**found, "scale": target["scale"] / torch.tensor([across, down])}


def _areas(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2]).prod(1)


def _kept(target: dict[str, Tensor], boxes: Tensor, least: float = _LEAST_SIDE) -> dict[str, Tensor]:
    """The target with its boxes moved, without objects of which nothing, or next to nothing, is left."""
    sides = boxes[:, 2:] - boxes[:, :2]
    keep = ((sides >= least) & (sides > 0)).all(1)
    found = {name: target[name][keep] for name in ("labels", "crowd", "area")}
    return {"boxes": boxes[keep].float(), **found, "scale": target["scale"]}


@functools.cache
def _transforms(
    level: str, mirror: bool, has_colours: bool, fill: tuple[float, ...], preprocessing: Preprocessing
) -> Sequence[Any]:
    from torchvision.transforms import InterpolationMode, v2

    mode, size = InterpolationMode(preprocessing.interpolation), preprocessing.size
    steps: list[Any] = []
    if level == "strong":
        steps += [v2.RandomPhotometricDistort(p=0.5)] if has_colours else []
        steps += [v2.RandomZoomOut(fill=list(fill), side_range=(1.0, 2.0)), _WithObjects(v2.RandomIoUCrop())]
    steps += [
        v2.ScaleJitter(size, scale_range=SCALES, interpolation=mode, antialias=True),
        v2.RandomCrop(size, pad_if_needed=True, fill=list(fill)),
    ]
    return [*steps, v2.RandomHorizontalFlip()] if mirror else steps


@dataclass(frozen=True)
class _WithObjects:
    """A transform that needs an object, left out where there is none."""

    transform: Callable[[Any, Any], Any]

    def __call__(self, image: Any, boxes: Any) -> Any:
        return self.transform(image, boxes) if len(boxes) else (image, boxes)
