"""Find image files named one by one or by folder."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..errors import DataError
from .folders import walk_images
from .read_image import extensions_of, printable


def list_images(sources: Iterable[str | Path], channels: int = 3) -> tuple[Path, ...]:
    """Image files, in the order given; a folder stands for all images below it, by name.

    Args:
        sources: files and folders.
        channels: of the images; where these are not 3, .npy files in folders are images too.

    Raises:
        DataError: no such file or folder, or a folder without images.
    """
    return tuple(path for source in sources for path in _images_of(Path(source), channels))


def _images_of(source: Path, channels: int) -> Iterator[Path]:
    if source.is_dir():
        found = [source / name for name in walk_images(source, extensions_of(channels))]
        if not found:
            raise DataError(f"there are no images in {printable(source)}: give image files or a folder that has some.")
        yield from found
    elif os.path.lexists(source):
        yield source
    else:
        raise DataError(f"there is no {printable(source)}: give image files or folders.")
