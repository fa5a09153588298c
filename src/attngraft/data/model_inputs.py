"""From an image to the input of a model, as evaluation makes it of the stored images of a data set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image

from ..config import Preprocessing
from ..errors import DataError
from .any_image import IMAGE_KINDS, ImageLike, decode_any
from .dataset import Dataset, ImageSet
from .depth import DeepValues
from .image_table import read_paths
from .loader import one_thread
from .pixel_store import as_tensor, short_side_limit, shrink
from .read_image import PIXEL_CAP
from .transforms import ImageTransform, build_transform, build_views
from .walk_folders import check_exist, list_images

Images: TypeAlias = ImageLike | Dataset | ImageSet | Iterable[ImageLike]
"""What `InputReader.named` takes."""
Read: TypeAlias = Callable[[], Any]


@dataclass(frozen=True)
class InputReader:
    """The way of images into a model: decode, shrink as data sets are stored, bring to the input.

    Attributes:
        preprocessing: of the model.
        pixel_cap: largest width x height of an image.
        views: give every image as the V views of `build_views`: one more axis, (V, C, H, W) and (N, V, C, H, W).
        whole: give every image as it was decoded, (H, W, C), instead.
        clipped: names of images that had values beyond black and white of the training images, so far.
    """

    preprocessing: Preprocessing
    pixel_cap: int = PIXEL_CAP
    views: bool = False
    whole: bool = False
    transform: ImageTransform = field(init=False)
    clipped: list[str] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        object.__setattr__(self, "transform", build_transform("none", self.preprocessing, train=False))

    def stored(self, image: ImageLike, name: str = "the image") -> torch.Tensor:
        """An image as a data set stores it: (C, H, W) uint8 or float32, laid out with channels last.

        Raises:
            UnreadableImageError: see `decode_any`.
        """
        return self.shrunk(self.decoded(image, name))

    def shrunk(self, pixels: np.ndarray) -> torch.Tensor:
        """A decoded image (H, W, C) as a data set stores it."""
        limit = short_side_limit(self.preprocessing.read_options["image_size"])
        return as_tensor(shrink(pixels, limit)).permute(2, 0, 1)

    def decoded(self, image: ImageLike, name: str = "the image") -> np.ndarray:
        """The pixels of an image, (H, W, C).

        Raises:
            UnreadableImageError: see `decode_any`.
        """
        wanted = self.preprocessing.read_options
        deep = DeepValues(wanted["depth"])
        pixels = decode_any(image, channels=wanted["channels"], pixel_cap=self.pixel_cap, name=name, deep=deep)
        if deep.is_clipped:
            self.clipped.append(name)
        return pixels

    def arranged(self, image: ImageLike, name: str = "the image") -> torch.Tensor:
        """An image at the size of the input, in its own type: what `batch` takes.

        Raises:
            UnreadableImageError: see `decode_any`.
        """
        return self._arrange(self.stored(image, name))

    def batch(self, arranged: Sequence[torch.Tensor]) -> torch.Tensor:
        """(N, C, H, W) float32: the input of the model."""
        return self.transform.batch(arranged)

    def named(self, images: Images) -> Iterator[tuple[str, Read]]:
        """Every image with its name and how it is read and arranged; nothing is read yet.

        Args:
            images: one, several, folders, CSV files of paths, a batch (an array or tensor with a first axis more), a data set (its test
                images) or one split.

        Raises:
            DataError: no images, something else, or no such file.
        """
        if isinstance(images, (Dataset, ImageSet)):
            chosen = images.test if isinstance(images, Dataset) else images
            for position, name in enumerate(chosen.ids):
                yield name, partial(self._of_set, chosen, position)
            return
        found = 0
        for position, image in enumerate(_one_by_one(images)):
            for name, one in self._files(image) if isinstance(image, (str, PathLike)) else [(str(position), image)]:
                found += 1
                yield name, partial(self.decoded if self.whole else self.arranged, one, f"image {name}")
        if not found:
            raise DataError(f"got no images: give {IMAGE_KINDS}, a folder, or several of them.")

    def _files(self, path: str | PathLike[str]) -> Iterable[tuple[str, str | Path]]:
        if not str(path):
            raise DataError(f"the path is empty: give {IMAGE_KINDS}, a folder, or several of them.")
        if _is_address(path):
            return [(str(path), str(path))]  # which `decode_any` refuses in words
        return [(str(file), file) for file in list_images(_named_by(path), self.preprocessing.channels)]

    def _of_set(self, images: ImageSet, position: int) -> Any:
        image = images.image(position)
        return image.permute(1, 2, 0).numpy() if self.whole else self._arrange(image)

    def _arrange(self, image: torch.Tensor) -> torch.Tensor:
        with one_thread():
            if self.views:
                return torch.stack([view.arrange(image) for view in build_views(self.preprocessing)])
            return self.transform.arrange(image)


def check_there(images: Any) -> None:
    """Raise DataError for a path that is not there, or a list of paths that cannot be read.

    Args:
        images: as `InputReader.named` takes them; what can be gone through only once is left alone.
    """
    if isinstance(images, (str, PathLike, list, tuple, np.ndarray)):
        paths = [one for one in _one_by_one(images) if isinstance(one, (str, PathLike)) and str(one)]
        check_exist(place for path in paths if not _is_address(path) for place in _named_by(path))


def _is_address(path: str | PathLike[str]) -> bool:
    """Whether it is an address, or no file."""
    return isinstance(path, str) and ":" in path and not Path(path).exists()


def _named_by(path: str | PathLike[str]) -> list[Path]:
    """The file or folder, or those that a CSV file lists."""
    place = Path(path).expanduser()
    return read_paths(place) if place.suffix.lower() == ".csv" else [place]


def _one_by_one(images: Any) -> Iterable[Any]:
    """Single images of what was given; a batch is cut along its first axis."""
    if isinstance(images, np.ndarray) and images.dtype.kind in "OUS":
        return images.ravel().tolist()
    if isinstance(images, (np.ndarray, torch.Tensor)):
        return list(images) if images.ndim == 4 else [images]
    is_one = isinstance(images, (str, PathLike, bytes, bytearray, memoryview, Image.Image)) or hasattr(images, "read")
    return [images] if is_one or not isinstance(images, Iterable) or isinstance(images, dict) else images
