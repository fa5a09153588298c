"""Objects in images: their boxes and classes, from annotations to the targets of an image set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2b
from typing import Any, ClassVar, overload

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .targets import rarest_outputs

BoxTarget = Mapping[str, Tensor]
"""What a detector is trained on, for one image: `boxes` (n, 4) float32 x0 y0 x1 y1 in pixels of the input, `labels` (n,)
int64, `crowd` (n,) bool, `area` (n,) float32 and `scale` (2,) float32, both in pixels of the file."""


@dataclass(frozen=True, eq=False)
class Objects:
    """The objects of one image.

    Attributes:
        boxes: (n, 4) float32, x0 y0 x1 y1 in pixels of the stored image.
        labels: (n,) int64, index into the classes.
        crowd: (n,) bool, boxes that stand for many objects or need not be found.
        area: (n,) float32, of the objects in pixels of the file.
        scale: pixels of the file per pixel of the stored image, across and down.
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    area: NDArray[np.float32]
    scale: tuple[float, float] = (1.0, 1.0)

    @classmethod
    def of(
        cls, boxes: ArrayLike, labels: ArrayLike, crowd: ArrayLike | None = None, area: ArrayLike | None = None
    ) -> Objects:
        """Objects from lists; none is a crowd, and areas are those of the boxes, where nothing else is given."""
        found = np.asarray(boxes, dtype=np.float32).reshape(-1, 4)
        classes = np.asarray(labels, dtype=np.int64).reshape(-1)
        is_crowd = np.zeros(len(found), dtype=np.bool_) if crowd is None else np.asarray(crowd, dtype=np.bool_)
        sizes = (found[:, 2:] - found[:, :2]).prod(1) if area is None else np.asarray(area)
        return cls(found, classes, is_crowd, sizes.astype(np.float32))

    def __len__(self) -> int:
        return len(self.labels)

    def shrunk(self, across: float, down: float) -> Objects:
        """The same objects in an image that is stored at so many times its width and height."""
        factors = np.array([across, down] * 2, dtype=np.float32)
        return replace(self, boxes=self.boxes * factors, scale=(self.scale[0] / across, self.scale[1] / down))

    @property
    def digest(self) -> str:
        """A hash of boxes, classes and crowds."""
        found = blake2b(digest_size=8)
        for values in (self.boxes, self.labels, self.crowd):
            found.update(np.ascontiguousarray(values).tobytes())
        return found.hexdigest()


@dataclass(frozen=True, eq=False)
class Boxes:
    """The objects of N images.

    Attributes:
        images: the objects of each.
        classes: how many there are.
        most: of objects in an image, of all images that were loaded together.
    """

    images: tuple[Objects, ...]
    classes: int
    most: int
    task: ClassVar[str] = "detection"
    is_spatial: ClassVar[bool] = True

    @classmethod
    def pack(cls, images: Sequence[Objects], classes: int) -> Boxes:
        """The objects of all images of a data set."""
        return cls(tuple(images), classes, max((len(image) for image in images), default=0))

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """(N, K) objects of each class in each image."""
        found = [np.bincount(image.labels, minlength=self.classes) for image in self.images]
        return np.array(found, dtype=np.int64).reshape(-1, self.classes)

    @property
    def strata(self) -> NDArray[np.int64]:
        """The class of each image that the fewest images have, K where it has no object."""
        return rarest_outputs(self.counts > 0)

    @property
    def present(self) -> frozenset[int]:
        return frozenset(np.flatnonzero(self.counts.any(axis=0)).tolist())

    def select(self, positions: Sequence[int] | NDArray[Any]) -> Boxes:
        return replace(self, images=tuple(self.images[int(i)] for i in positions))

    def extend(self, others: Sequence[Boxes]) -> Boxes:
        parts = [self, *others]
        images = tuple(image for part in parts for image in part.images)
        return replace(self, images=images, most=max(part.most for part in parts))

    def get(self, position: int) -> Objects:
        return self.images[position]

    def collate(self, positions: Sequence[int] | NDArray[Any]) -> BoxBatch:
        """The objects in pixels of the stored images."""
        return BoxBatch([as_target(self.images[int(position)]) for position in positions], self.most)

    def digest(self, position: int) -> str:
        return self.images[position].digest


class BoxBatch(Sequence[BoxTarget]):
    """The targets of the images of a batch, one mapping each; a slice is a batch again.

    Args:
        images: one target each.
        most: of objects in an image of the data set.
    """

    def __init__(self, images: Sequence[BoxTarget], most: int) -> None:
        self.images = list(images)
        self.most = most

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[BoxTarget]:
        return iter(self.images)

    @overload
    def __getitem__(self, chosen: int) -> BoxTarget: ...
    @overload
    def __getitem__(self, chosen: slice) -> BoxBatch: ...
    def __getitem__(self, chosen: int | slice) -> BoxTarget | BoxBatch:
        return BoxBatch(self.images[chosen], self.most) if isinstance(chosen, slice) else self.images[chosen]

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> BoxBatch:
        """The same on a device."""
        moved = [
            {name: tensor.to(device, non_blocking=non_blocking) for name, tensor in image.items()} for image in self
        ]
        return BoxBatch(moved, self.most)

    def pin_memory(self) -> BoxBatch:
        """The same in page-locked memory."""
        return BoxBatch([{name: tensor.pin_memory() for name, tensor in image.items()} for image in self], self.most)


def as_target(objects: Objects) -> dict[str, Tensor]:
    """The objects of an image as tensors of their own."""
    return {
        "boxes": torch.tensor(objects.boxes).view(-1, 4),
        "labels": torch.tensor(objects.labels),
        "crowd": torch.tensor(objects.crowd),
        "area": torch.tensor(objects.area),
        "scale": torch.tensor(objects.scale, dtype=torch.float32),
    }
