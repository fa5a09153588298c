"""Pictures of nearly equal images, for reports: whether they are copies is for people to see."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from ..files import write_atomically
from .dataset import Dataset
from .read_bands import rgb_preview

FOLDER = "near_leaks"
MOST_PAIRS = 10  # as many as a page lists
THUMBNAIL = 128  # pixels


def names_of_pair(number: int) -> tuple[str, str]:
    """The files of both pictures, relative to the folder of the run or comparison.

    >>> names_of_pair(0)
    ('near_leaks/00-a.png', 'near_leaks/00-b.png')
    """
    return f"{FOLDER}/{number:02d}-a.png", f"{FOLDER}/{number:02d}-b.png"


def write_leak_pictures(folder: Path, dataset: Dataset) -> None:
    """Write both pictures of the first nearly equal pairs of the splits, where the images are at hand."""
    sets = [images for images in (dataset.train, dataset.val, dataset.test) if images is not None]
    pairs = dataset.report.near_leaks[:MOST_PAIRS]
    wanted = {name for pair in pairs for name in pair}
    found = {name: (images, i) for images in sets for i, name in enumerate(images.ids) if name in wanted}
    for number, pair in enumerate(pairs):
        for name, file in zip(pair, names_of_pair(number), strict=True):
            if name in found and not (folder / file).exists():
                images, position = found[name]
                write_thumbnail(folder / file, images.image(position))


def write_thumbnail(path: Path, image: torch.Tensor) -> None:
    """Write a stored image as PNG with at most 128 pixels a side."""
    thumbnail = Image.fromarray(rgb_preview(image).permute(1, 2, 0).contiguous().numpy())
    thumbnail.thumbnail((THUMBNAIL, THUMBNAIL))
    write_atomically(path, lambda temporary: thumbnail.save(temporary, format="PNG"))
