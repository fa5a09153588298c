"""Refuse folders that are no classes, whatever they are called, and say what they are."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from ..errors import DataError, counted
from .class_names import likely_cause, quoted
from .read_image import printable
from .split_names import ALL_CLASSES, as_option, split_of
from .walk_folders import entries, is_folder, is_image

LAYOUT = "expected one folder per class, each with images, or train and test folders that hold them"
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar")
_PICTURES = {"image", "images", "img", "imgs"}
_MASKS = {"mask", "masks", "annotation", "annotations", "label", "labels", "groundtruth", "gt"}


@dataclass(frozen=True)
class SeenFolder:
    """What one folder holds.

    Attributes:
        name: of the folder.
        direct: whether images lie in it.
        inner: names of its folders with images below.
        void: whether there is no file below it at all.
    """

    name: str
    direct: bool
    inner: tuple[str, ...]
    void: bool = False

    @property
    def usable(self) -> bool:
        """Whether there are images below."""
        return self.direct or bool(self.inner)

    @property
    def branch(self) -> bool:
        """Whether all its images lie in folders."""
        return bool(self.inner) and not self.direct


def instead_of_folders(root: Path, extensions: Collection[str]) -> str:
    """A clause on what a folder without folders has."""
    files = [entry.name for entry in entries(root) if not is_folder(entry)]
    archive = next((name for name in files if name.lower().endswith(ARCHIVES)), None)
    if archive is not None:
        return f" but the archive {printable(archive)}, which has to be unpacked first"
    count = sum(is_image(root / name, extensions) for name in files)
    return f" but {counted(count, 'image')}, whose classes it does not say" if count else ""


def check_are_classes(place: Path, seen: Sequence[SeenFolder]) -> tuple[str, ...]:
    """Refuse folders that are taken for classes and are something else; notes on what may be a mistake.

    Raises:
        DataError: they hold the folders of others beside them, data sets of their own, the same folders, or masks.
    """
    _check_beside(place, seen)
    _check_own_splits(place, seen)
    _check_same_folders(place, [one for one in seen if one.branch])
    names = {one.name.lower() for one in seen if one.usable}
    if names <= _PICTURES | _MASKS and names & _PICTURES and names & _MASKS:
        raise DataError(
            f"{printable(place)} has {quoted([one.name for one in seen])}, which looks like images with masks: {LAYOUT}."
        )
    return _notes([one.name for one in seen if one.usable])


def _notes(names: Sequence[str]) -> tuple[str, ...]:
    splits = [name for name in names if split_of(name)]
    held = f"{quoted(splits)} holds images itself, as classes do, and was taken for a class."
    alike = (
        next(filter(None, (likely_cause([a], [b]) for a, b in combinations(names, 2))), "") if len(names) < 300 else ""
    )
    return (*((held,) if splits else ()), *((f"{alike}, and were taken for two classes.",) if alike else ()))


def check_hold_classes(place: Path, seen: Sequence[SeenFolder]) -> None:
    """Refuse folders that are called like splits and hold images without classes."""
    raise DataError(
        f"{printable(place)} has {quoted([one.name for one in seen])}, which look like splits and hold images without class "
        f"folders: put the images of each class into a folder of its own, list them in a CSV file, or say --splits "
        f"{ALL_CLASSES} (splits='{ALL_CLASSES}') where these are the classes."
    )


def _check_beside(place: Path, seen: Sequence[SeenFolder]) -> None:
    """Refuse a folder that holds those of the others: it is a split, and the others are the classes of another."""
    names = {one.name for one in seen}
    for one in seen:
        classes = sorted(names & set(one.inner))
        if classes:
            raise DataError(
                f"{printable(place / one.name)} holds folders that are named like classes beside it ({quoted(classes)}): put "
                "the other images into train/, or take that folder away."
            )


def _check_own_splits(place: Path, seen: Sequence[SeenFolder]) -> None:
    """Refuse folders with train and test folders in them: they are data sets, or classes above splits."""
    for one in seen:
        splits = {split_of(name) for name in one.inner} - {None}
        if "train" in splits and len(splits) > 1:
            found = quoted([name for name in one.inner if split_of(name)])
            raise DataError(
                f"{printable(place / one.name)} holds {found}: give that folder where it is the data set, or put train and test "
                f"folders above the classes where {printable(one.name)} is a class."
            )


def _check_same_folders(place: Path, seen: Sequence[SeenFolder]) -> None:
    """Refuse folders of which one holds the folders of another: those are the classes, or parts that all classes have."""
    for one, other in combinations(seen, 2):
        mine, theirs = set(one.inner), set(other.inner)
        if min(len(mine), len(theirs)) > 1 and (mine <= theirs or theirs <= mine):
            larger, smaller = (one, other) if len(mine) >= len(theirs) else (other, one)
            raise DataError(
                f"{printable(place / one.name)} and {printable(place / other.name)} hold the same folders "
                f"({quoted(sorted(mine & theirs))}): say {as_option([('train', larger.name), ('test', smaller.name)])} "
                f"(splits=...) where these are the classes, give one folder alone where each is a data set, or say --splits "
                f"{ALL_CLASSES} where {printable(one.name)} and {printable(other.name)} are classes."
            )
