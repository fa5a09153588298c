"""Scan folders of images: in class folders, with or without split folders above them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import DataError, counted
from .build_dataset import Pool
from .class_names import likely_cause, quoted
from .folder_checks import LAYOUT
from .folder_layout import look, read_layout
from .read_image import EXTENSIONS, printable
from .split_names import likely_split, split_of
from .targets import ClassLabels
from .walk_folders import Passed, entries, identity_of, is_folder, is_image, is_misnamed, subfolders, walk


def scan_folder(root: Path, extensions: Collection[str] = EXTENSIONS, splits: str | None = None) -> Pool:
    """List the images of a data folder, by their names; nothing is opened yet.

    Args:
        root: the folder.
        extensions: of images.
        splits: which folders are splits, as for `load_data`.

    Raises:
        DataError: there is no such folder, it holds no class folders or only one, a class is missing or empty in
            a split, or it is not clear which folders are splits. Names the folder or the classes.
    """
    _check_is_folder(root)
    layout, passed = read_layout(root, extensions, splits), Passed()
    for folder in {parent for _, base in layout.bases if base for parent in Path(base).parents}:
        entries(root / folder, passed)
    scans = [_scan_classes(root, split, base, extensions, passed) for split, base in layout.bases]
    classes = _agreed_classes(root, scans)
    rows = sorted(
        (scan.split, image_id, name) for scan in scans for name, ids in scan.images.items() for image_id in ids
    )
    ignored = sum(scan.ignored for scan in scans)
    told: tuple[str, ...] = (
        (f"{counted(ignored, 'file', 'were')} ignored: not images in class folders.",) if ignored else ()
    )
    misnamed = [name for scan in scans for name in scan.misnamed]
    if misnamed:
        told += (
            f"{len(misnamed)} of them hold images under names of other formats ({printable(misnamed[0])}): rename or convert "
            "them, or take them away.",
        )
    return Pool(
        name=root.resolve().name,
        classes=classes,
        ids=tuple(image_id for _, image_id, _ in rows),
        targets=ClassLabels.named([name for _, _, name in rows], classes),
        splits=np.array([split for split, _, _ in rows]),
        notes=(*layout.notes, *told, *passed.notes),
    )


def _check_is_folder(root: Path) -> None:
    if not root.is_dir():
        found = "is a file" if root.exists() else "does not exist"
        raise DataError(f"the data folder {printable(root)} {found}: {LAYOUT}.")


@dataclass(frozen=True)
class _Scan:
    split: str
    base: str
    images: dict[str, list[str]]  # ids by class
    ignored: int
    misnamed: tuple[str, ...] = ()  # ids of files that hold images under other names


def training_folders(root: Path) -> list[str]:
    """Names of the folders in it that stand for training images, whatever else there is."""
    return [name for name in subfolders(root) if split_of(name) == "train"]


def has_splits(root: Path, classes: Collection[str], extensions: Collection[str] = EXTENSIONS) -> bool:
    """Whether a folder is a data set with training images, given what classes are called."""
    if any(name not in classes for name in training_folders(root)):
        return True
    if set(subfolders(root)) <= set(classes):
        return False
    try:
        return any(split for split, _ in read_layout(root, extensions).bases)
    except DataError:
        return False


def scan_labelled(
    root: Path, classes: Collection[str] = (), extensions: Collection[str] = EXTENSIONS
) -> tuple[list[str], list[str]]:
    """Ids of all images in class folders, whatever their split, and the class of each; classes may be missing.

    Args:
        root: a folder of class folders, or of train, val or test folders that hold them.
        classes: names of class folders even where they read like a split.

    Raises:
        DataError: there is no such folder, it cannot be listed, or images lie outside of class folders.
    """
    _check_is_folder(root)
    bases = _labelled_splits(root, classes, extensions) or [""]
    for base in bases:
        names = (e.name for e in entries(root / base) if not is_folder(e) and is_image(e.path, extensions))
        loose = next(names, None)
        if loose is not None:
            raise DataError(
                f"{printable(root / base)} has {printable(loose)} in no class folder: "
                "put every image into the folder of its class."
            )
    scans = [_scan_classes(root, "", base, extensions, Passed()) for base in bases]
    found = [(name, ids) for scan in scans for name, ids in scan.images.items()]
    return [i for _, ids in found for i in ids], [name for name, ids in found for _ in ids]


def _labelled_splits(root: Path, classes: Collection[str], extensions: Collection[str]) -> list[str]:
    """Folders that hold class folders; which of them is for training does not matter here."""
    folders = subfolders(root)
    splits = [name for name in folders if split_of(name) and name not in classes]
    if len(splits) == len(folders) or any(split_of(name) == "train" for name in splits):
        return splits
    seen = [one for one in look(root, extensions) if one.usable]
    speaks = all(one.branch and likely_split(one.name) and one.name not in classes for one in seen)
    shared = seen and set(classes).union(*(one.inner for one in seen[1:])) & set(seen[0].inner)
    return [one.name for one in seen] if speaks and shared else []


def _agreed_classes(root: Path, scans: list[_Scan]) -> tuple[str, ...]:
    classes = sorted({name for scan in scans for name in scan.images})
    for split in dict.fromkeys(scan.split for scan in scans):
        parts = [scan for scan in scans if scan.split == split]
        empty = [name for name in classes if not any(scan.images.get(name) for scan in parts)]
        if len(empty) == len(classes):
            arrays = any(next((root / scan.base).glob("*/*.npy"), None) is not None for scan in parts)
            hint = "; .npy files count as images with --channels (channels=...) only" if arrays else ""
            raise DataError(f"{printable(root / parts[0].base)} holds no images in class folders: {LAYOUT}{hint}.")
        if empty:
            cause = likely_cause(empty, [name for name in classes if name not in empty])
            hidden = [name for scan in parts for name in scan.misnamed]
            if not cause and hidden:
                cause = f"files such as {printable(hidden[0])} hold images under names of other formats"
            raise DataError(
                f"{printable(root)}: {quoted(empty)} {'has' if len(empty) == 1 else 'have'} no images in {_place(parts)}"
                f"{f' ({cause})' if cause else ''}: add images to every class or remove its folders."
            )
    if len(classes) < 2:
        raise DataError(f"{printable(root)} has only one class, {quoted(classes)}: classification needs at least two.")
    return tuple(classes)


def _place(parts: list[_Scan]) -> str:
    """Where a class is missing: the split, with its folder where that has another name."""
    split, names = parts[0].split, [scan.base for scan in parts]
    if not split:
        return "the data"
    return f"the {split} split" + ("" if names == [split] else f" ({quoted(names)})")


def _scan_classes(root: Path, split: str, base: str, extensions: Collection[str], passed: Passed) -> _Scan:
    place, above = root / base, f"{base}/" if base else ""
    images: dict[str, list[str]] = {}
    misnamed: list[str] = []
    found = entries(place, passed)
    ignored = sum(1 for entry in found if not is_folder(entry))
    for entry in filter(is_folder, found):
        seen = {identity_of(parent) for parent in (place, *place.absolute().parents)}
        names = list(walk(Path(entry.path), f"{above}{entry.name}/", seen, passed))
        images[entry.name] = [image_id for image_id in names if is_image(root / image_id, extensions)]
        others = set(names).difference(images[entry.name])
        ignored += len(others)
        misnamed += sorted(name for name in others if is_misnamed(root / name))
    return _Scan(split, base, images, ignored, tuple(misnamed))
