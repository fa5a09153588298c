"""Image files as they appear in a folder."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from ..data import list_images
from ..errors import DataError


class Arrivals:
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
        """Paths, relative to the folder, of settled images that are not among those seen.

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

    def _images(self) -> tuple[Path, ...]:
        if not self.folder.is_dir():
            raise DataError(f"{self.folder} is no folder: give the folder in which images appear.")
        try:
            return list_images([self.folder])
        except DataError:  # it is empty as yet
            return ()
