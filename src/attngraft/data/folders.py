"""Find images: in class folders, with or without split folders above them, or named one by one."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import DataError
from .build_dataset import Pool
from .class_names import likely_cause, quoted
from .read_image import EXTENSIONS, extensions_of, printable
from .targets import ClassLabels

# What people call the splits; the first name is the one used in this library.
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
_LAYOUT = "expected one folder per class, each with images, or train and test folders that hold them"


def scan_folder(root: Path, extensions: Collection[str] = EXTENSIONS) -> Pool:
    """List the images of a data folder, by their names; nothing is opened yet.

    Raises:
        DataError: there is no such folder, it holds no class folders or only one, a class is missing or empty in
            a split, or the splits are ambiguous. Names the folder or the classes.
    """
    if not root.is_dir():
        found = "is a file" if root.exists() else "does not exist"
        raise DataError(f"the data folder {printable(root)} {found}: {_LAYOUT}.")
    folders = subfolders(root)
    if not folders:
        raise DataError(f"{printable(root)} has no folders in it: {_LAYOUT}.")
    split_folders = _split_folders(root, folders)
    extra = sorted(set(folders) - set(split_folders.values())) if split_folders else []
    notes = () if split_folders else _check_are_classes(root, folders)
    if extra:
        notes = (f"folders beside the splits were ignored: {quoted(extra)}.",)
    scans = {split: _scan_classes(root, name, extensions) for split, name in (split_folders or {"": ""}).items()}
    classes = _agreed_classes(root, scans)
    rows = sorted(
        (split, image_id, name)
        for split, scan in scans.items()
        for name, ids in scan.images.items()
        for image_id in ids
    )
    ignored = sum(scan.ignored for scan in scans.values())
    if ignored:
        notes = (*notes, f"{ignored} files that are not images in class folders were ignored.")
    return Pool(
        name=root.resolve().name,
        classes=classes,
        ids=tuple(image_id for _, image_id, _ in rows),
        targets=ClassLabels.named([name for _, _, name in rows], classes),
        splits=np.array([split for split, _, _ in rows]),
        notes=notes,
    )


@dataclass(frozen=True)
class _Scan:
    images: dict[str, list[str]]  # ids by class
    ignored: int


def training_folders(root: Path) -> list[str]:
    """Names of the folders in it that stand for training images, whatever else there is."""
    return [name for name in subfolders(root) if SPLIT_NAMES.get(name.lower()) == "train"]


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
    if not root.is_dir():
        raise DataError(
            f"the data folder {printable(root)} {'is a file' if root.exists() else 'does not exist'}: {_LAYOUT}."
        )
    folders = subfolders(root)
    splits = [name for name in folders if name.lower() in SPLIT_NAMES and name not in classes]
    if len(splits) < len(folders) and not any(SPLIT_NAMES[name.lower()] == "train" for name in splits):
        splits = []
    bases = splits or [""]
    for base in bases:
        loose = next(
            (e.name for e in _entries(root / base) if _is_image(e.name, extensions) and not _is_folder(e)), None
        )
        if loose is not None:
            raise DataError(
                f"{printable(root / base)} has {printable(loose)} in no class folder: "
                "put every image into the folder of its class."
            )
    found = [(name, ids) for base in bases for name, ids in _scan_classes(root, base, extensions).images.items()]
    return [i for _, ids in found for i in ids], [name for name, ids in found for _ in ids]


def _split_folders(root: Path, folders: list[str]) -> dict[str, str]:
    """Folder name per split, empty where the folders are classes."""
    found: dict[str, str] = {}
    for name in folders:
        split = SPLIT_NAMES.get(name.lower())
        if split in found:
            raise DataError(f"{printable(root)} has both {found[split]} and {name}: keep one folder for this split.")
        if split is not None:
            found[split] = name
    if "train" in found:
        return found
    if len(found) == len(folders):
        raise DataError(f"{printable(root)} has {quoted(folders)} but no train folder: add one with the same classes.")
    return {}


def _check_are_classes(root: Path, folders: list[str]) -> tuple[str, ...]:
    """Refuse folders that are taken for classes and hold those of the others; a note where all hold the same folders."""
    inner = {name: set(subfolders(root / name)) for name in folders}
    for name, found in inner.items():
        classes = sorted(found & set(folders))
        if classes:
            raise DataError(
                f"{printable(root / name)} holds folders that are named like classes beside it ({quoted(classes)}): put the "
                "other images into train/, or take that folder away."
            )
    first = inner[folders[0]]
    if len(folders) > 1 and len(first) > 1 and all(found == first for found in inner.values()):
        return (
            f"all class folders hold the same folders ({quoted(sorted(first))}): if these are the classes, "
            f"{quoted(folders)} have to be called train and test.",
        )
    return ()


def _agreed_classes(root: Path, scans: dict[str, _Scan]) -> tuple[str, ...]:
    classes = sorted({name for scan in scans.values() for name in scan.images})
    for split, scan in scans.items():
        empty = [name for name in classes if not scan.images.get(name)]
        if len(empty) == len(classes):
            arrays = next(iter((root / split).glob("*/*.npy")), None) is not None
            hint = "; .npy files count as images with --channels (channels=...) only" if arrays else ""
            raise DataError(f"{printable(root / split)} holds no images in class folders: {_LAYOUT}{hint}.")
        if empty:
            place = f"the {split} split" if split else "the data"
            cause = likely_cause(empty, [name for name in classes if name not in empty])
            raise DataError(
                f"{printable(root)}: {quoted(empty)} {'has' if len(empty) == 1 else 'have'} no images in {place}"
                f"{f' ({cause})' if cause else ''}: add images to every class or remove its folders."
            )
    if len(classes) < 2:
        raise DataError(f"{printable(root)} has only one class, {quoted(classes)}: classification needs at least two.")
    return tuple(classes)


def _scan_classes(root: Path, split_folder: str, extensions: Collection[str]) -> _Scan:
    base = root / split_folder
    images: dict[str, list[str]] = {}
    ignored = sum(1 for entry in _entries(base) if not _is_folder(entry))
    for name in subfolders(base):
        prefix = f"{split_folder}/{name}/" if split_folder else f"{name}/"
        seen = {_identity(parent) for parent in (base, *base.absolute().parents)}
        names = list(_walk(base / name, prefix, seen))
        images[name] = [image_id for image_id in names if _is_image(image_id, extensions)]
        ignored += len(names) - len(images[name])
    return _Scan(images, ignored)


def walk_images(folder: Path, extensions: Collection[str] = EXTENSIONS) -> list[str]:
    """Ids of all images below a folder, as paths relative to it."""
    return [name for name in _walk(folder, "", set()) if _is_image(name, extensions)]


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


def _walk(folder: Path, prefix: str, seen: set[tuple[int, int]]) -> Iterator[str]:
    """Ids of all files below a folder. Each real folder is entered once, so that links cannot lead in circles."""
    open_folders = [_entered(folder, prefix, seen)]  # a list, as folders may be nested deeper than calls
    while open_folders:
        prefix, entries = open_folders[-1]
        entry = next(entries, None)
        if entry is None:
            open_folders.pop()
        elif _is_folder(entry):
            open_folders.append(_entered(Path(entry.path), f"{prefix}{entry.name}/", seen))
        else:
            yield f"{prefix}{entry.name}"


def _entered(folder: Path, prefix: str, seen: set[tuple[int, int]]) -> tuple[str, Iterator[os.DirEntry[str]]]:
    identity = _identity(folder)
    if identity in seen:
        return prefix, iter(())
    seen.add(identity)
    return prefix, iter(_entries(folder))


def _identity(folder: Path) -> tuple[int, int]:
    """The same for every way to a folder."""
    try:
        status = os.stat(folder)
    except OSError as error:
        raise DataError(f"the folder {printable(folder)} cannot be listed: {error.strerror or error}.") from None
    return status.st_dev, status.st_ino


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """Visible entries by name."""
    try:
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".") and entry.name != "__MACOSX"]
    except OSError as error:
        raise DataError(f"the folder {printable(folder)} cannot be listed: {error.strerror or error}.") from None
    return sorted(visible, key=lambda entry: entry.name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Also where a link leads to itself, or out of what may be read: then it is a file that cannot be read."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def subfolders(folder: Path) -> list[str]:
    """Names of the visible folders in it, sorted."""
    return [entry.name for entry in _entries(folder) if _is_folder(entry)]


def _is_image(name: str, extensions: Collection[str]) -> bool:
    return os.path.splitext(name)[1].lower() in extensions
