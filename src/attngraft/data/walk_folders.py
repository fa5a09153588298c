"""Walk folders of images: what is visible, what counts as an image, and what systems leave behind."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import DataError, counted
from .image_formats import format_of_file
from .read_image import EXTENSIONS, extensions_of, printable

# What systems, drives and programs put among images; whatever begins with a dot is passed over too.
_SYSTEM = re.compile(
    r"\..*|__MACOSX|__pycache__|@eaDir|@tmp|@Recycle|@Recently-Snapshot|@__thumb|@sharebin|#recycle|#snapshot|lost\+found"
    r"|LOST\.DIR|found\.\d{3}|\$RECYCLE\.BIN|RECYCLER|System Volume Information|Network Trash Folder|Temporary Items"
    r"|~\$.*|Thumbs\.db|ehthumbs(_vista)?\.db|desktop\.ini|picasa\.ini|Icon\r",
    re.IGNORECASE | re.DOTALL,
)


_SAYS_FORMAT = re.compile(r"\.(?=.*[a-z])[a-z0-9]{1,5}")
# what lies beside images by the thousand and is not looked into; raw photographs are TIFF files by their first bytes
_OTHERS = frozenset(
    [
        ".txt",
        ".json",
        ".xml",
        ".csv",
        ".md",
        ".html",
        ".yaml",
        ".yml",
        ".npy",
        ".npz",
        ".pkl",
        ".pt",
        ".pth",
        ".mp4",
        ".mov",
        ".avi",
        ".zip",
        ".xmp",
        ".thm",
    ]
)


@dataclass
class Passed:
    """What was passed over while walking: names of system and hidden entries, and how many of each."""

    folders: dict[str, int] = field(default_factory=dict)
    files: dict[str, int] = field(default_factory=dict)

    def add(self, entry: os.DirEntry[str]) -> None:
        """Count one entry."""
        names = self.folders if is_folder(entry) else self.files
        names[entry.name] = names.get(entry.name, 0) + 1

    @property
    def notes(self) -> tuple[str, ...]:
        """A sentence where there was something."""
        told = [
            f"{counted(sum(names.values()), f'system or hidden {what}')} ({_first(names)})"
            for what, names in (("folder", self.folders), ("file", self.files))
            if names
        ]
        count = sum(self.folders.values()) + sum(self.files.values())
        return (f"{' and '.join(told)} {'was' if count == 1 else 'were'} ignored.",) if told else ()


def _first(names: Collection[str]) -> str:
    shown = sorted(names)[:3]
    return ", ".join(map(repr, shown)) + ", ..." * (len(names) > len(shown))


def is_image(path: str | Path, extensions: Collection[str] = EXTENSIONS) -> bool:
    """Whether a file counts as an image: by its name, or where that says no format (IMG_1, x.jpg_large) by its content."""
    suffix = os.path.splitext(path)[1].lower()
    return suffix in extensions or (_SAYS_FORMAT.fullmatch(suffix) is None and format_of_file(path) is not None)


def is_misnamed(path: str | Path) -> bool:
    """Whether a file that counts as no image holds one under the name of another format."""
    suffix = os.path.splitext(path)[1].lower()
    return suffix not in _OTHERS and format_of_file(path) is not None


def subfolders(folder: Path) -> list[str]:
    """Names of the visible folders in it, sorted."""
    return [entry.name for entry in entries(folder) if is_folder(entry)]


def walk_images(folder: Path, extensions: Collection[str] = EXTENSIONS) -> list[str]:
    """Ids of all images below a folder, as paths relative to it."""
    return [name for name in walk(folder, "", set()) if is_image(folder / name, extensions)]


def holds_images(folder: Path, extensions: Collection[str] = EXTENSIONS) -> bool:
    """Whether there is an image below a folder."""
    return any(is_image(folder / name, extensions) for name in walk(folder, "", set()))


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
    check_exist([source])
    if source.is_dir():
        found = [source / name for name in walk_images(source, extensions_of(channels))]
        if not found:
            raise DataError(f"there are no images in {printable(source)}: give image files or a folder that has some.")
        yield from found
    else:
        yield source


def check_exist(places: Iterable[Path]) -> None:
    """Raise DataError for the first file or folder that is not there."""
    for place in places:
        if not os.path.lexists(place):
            raise DataError(f"there is no {printable(place)}: give image files or folders.")


def walk(folder: Path, prefix: str, seen: set[tuple[int, int]], passed: Passed | None = None) -> Iterator[str]:
    """Ids of all files below a folder. Each real folder is entered once, so that links cannot lead in circles.

    Args:
        folder: where to begin.
        prefix: of the ids.
        seen: identities of folders that are not entered; those that are, are added.
        passed: counts what was passed over.
    """
    open_folders = [_entered(folder, prefix, seen, passed)]  # a list, as folders may be nested deeper than calls
    while open_folders:
        prefix, found = open_folders[-1]
        entry = next(found, None)
        if entry is None:
            open_folders.pop()
        elif is_folder(entry):
            open_folders.append(_entered(Path(entry.path), f"{prefix}{entry.name}/", seen, passed))
        else:
            yield f"{prefix}{entry.name}"


def _entered(
    folder: Path, prefix: str, seen: set[tuple[int, int]], passed: Passed | None
) -> tuple[str, Iterator[os.DirEntry[str]]]:
    identity = identity_of(folder)
    if identity in seen:
        return prefix, iter(())
    seen.add(identity)
    return prefix, iter(entries(folder, passed))


def identity_of(folder: Path) -> tuple[int, int]:
    """The same for every way to a folder."""
    try:
        status = os.stat(folder)
    except OSError as error:
        raise DataError(f"the folder {printable(folder)} cannot be listed: {error.strerror or error}.") from None
    return status.st_dev, status.st_ino


def entries(folder: Path, passed: Passed | None = None) -> list[os.DirEntry[str]]:
    """Visible entries by name.

    Raises:
        DataError: it cannot be listed.
    """
    visible = []
    try:
        with os.scandir(folder) as found:
            for entry in found:
                if _SYSTEM.fullmatch(entry.name) is None:
                    visible.append(entry)
                elif passed is not None:
                    passed.add(entry)
    except OSError as error:
        raise DataError(f"the folder {printable(folder)} cannot be listed: {error.strerror or error}.") from None
    return sorted(visible, key=lambda entry: entry.name)


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Also where a link leads to itself, or out of what may be read: then it is a file that cannot be read."""
    try:
        return entry.is_dir()
    except OSError:
        return False
