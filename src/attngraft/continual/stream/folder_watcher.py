"""Find and read image files as they appear in a folder."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from ...config import Preprocessing
from ...data import UNLABELLED, ImageSet, list_images
from ...data.inference_images import decode_images
from ...errors import DataError

UNREADABLE = "it cannot be read"


class FolderWatcher:
    """New images of a folder, oldest first; a file that is still being written is left for later.

    Args:
        folder: searched through with all folders below it.
        settle_s: seconds for which a file must not have changed.
    """

    def __init__(self, folder: Path, settle_s: float = 2.0) -> None:
        self.folder = folder
        self.settle_s = settle_s
        self._images()

    def new(self, seen: Collection[str], now: float) -> list[str]:
        """Paths, relative to the folder, of settled images that were not seen before.

        Args:
            seen: relative paths.
            now: the time, in seconds as `time.time` counts them.

        Raises:
            DataError: the folder is not there.
        """
        found = []
        for path in self._images():
            name = path.relative_to(self.folder).as_posix()
            if name in seen:
                continue
            try:
                changed = os.stat(path).st_mtime
            except OSError:  # taken away since it was listed
                continue
            if not now - self.settle_s < changed <= now:
                found.append((changed, name))
        return [name for _, name in sorted(found)]

    def read(
        self, names: Sequence[str], known: Collection[str], preprocessing: Preprocessing, *, skip_broken: bool
    ) -> tuple[ImageSet | None, dict[str, str]]:
        """Read images, without files that cannot be read and without repetitions.

        Args:
            names: relative paths.
            known: pixel hashes of earlier images.
            preprocessing: of the model.
            skip_broken: leave out files that cannot be read, instead of an error.

        Returns:
            the images, None where there are none, and why each of the others is left out.

        Raises:
            DataError: files that cannot be read and may not be left out.
        """
        try:
            images = decode_images(
                [self.folder / name for name in names],
                names,
                np.full(len(names), UNLABELLED, dtype=np.int64),
                **preprocessing.read_options,
                skip_broken=skip_broken,
                cache_dir=None,
                progress=None,
            )
        except DataError:
            if not skip_broken:
                raise
            return None, dict.fromkeys(names, UNREADABLE)  # not one can be read
        left_out = dict.fromkeys(set(names) - set(images.ids), UNREADABLE)
        found: dict[str, int] = {}
        for position, (name, pixels) in enumerate(zip(images.ids, images.pixel_hashes, strict=True)):
            if pixels in known or pixels in found:
                left_out[name] = "the same image came before"
            else:
                found[pixels] = position
        return (images.select(list(found.values())) if found else None), left_out

    def _images(self) -> tuple[Path, ...]:
        if not self.folder.is_dir():
            raise DataError(f"{self.folder} is no folder: give the folder in which images appear.")
        try:
            return list_images([self.folder])
        except DataError:  # it is still empty
            return ()
