"""Scan folders of images and masks: images/ and masks/ side by side, with or without train, val and test."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..errors import DataError, counted
from .build_dataset import Pool
from .masks import MaskCoding, MaskFiles, read_masks
from .read_image import EXTENSIONS, printable
from .split_names import split_of
from .walk_folders import Passed, is_image, subfolders, walk

IMAGES = ("images", "image", "imgs", "img", "JPEGImages")
MASKS = ("masks", "mask", "labels", "annotations", "SegmentationClass")
LAYOUT = "expected images/ and masks/ with files of the same names, in the folder or in train, val and test"


@dataclass(frozen=True)
class _Pair:
    """A folder of images and the folder of their masks, relative to the data."""

    split: str
    images: str
    masks: str


def has_masks(folder: Path) -> bool:
    """Whether a folder holds images and masks in folders of these names."""
    return bool(_pairs(folder))


def scan_masks(folder: Path, extensions: Collection[str] = EXTENSIONS) -> Pool:
    """List images and their masks, by their names; nothing is opened yet.

    Raises:
        DataError: an image without a mask, a mask without an image, or two masks for one image.
    """
    passed = Passed()
    rows: list[tuple[str, str, str]] = []
    for pair in _pairs(folder):
        images = _by_stem(folder, pair.images, extensions, passed)
        masks = _by_stem(folder, pair.masks, EXTENSIONS, passed)
        _check_complete(folder, pair, images, masks)
        rows += [(pair.split, images[stem], masks[stem]) for stem in sorted(images)]
    if not rows:
        raise DataError(f"{printable(folder)} holds no images with masks: {LAYOUT}.")
    return Pool(
        name=folder.resolve().name,
        classes=(),
        ids=tuple(image for _, image, _ in rows),
        targets=MaskFiles(tuple(mask for _, _, mask in rows)),
        splits=np.array([split for split, _, _ in rows]),
        notes=passed.notes,
    )


def with_masks(pool: Pool, folder: Path, coding: MaskCoding) -> Pool:
    """A pool of decoded images with their masks read.

    Raises:
        DataError: as for `read_masks`.
    """
    assert isinstance(pool.targets, MaskFiles)
    read = read_masks(folder, pool.targets.files, pool.ids, pool.store.shapes, coding)
    return replace(pool, targets=read.masks, classes=read.classes, notes=(*pool.notes, *read.notes))


def _pairs(folder: Path) -> list[_Pair]:
    """Folders of images and masks: ROOT/images, ROOT/SPLIT/images or ROOT/images/SPLIT."""
    names = subfolders(folder)
    own = _named_pair(names)
    if own is not None:
        inside = [
            _Pair(split, f"{own[0]}/{name}", f"{own[1]}/{name}")
            for name in subfolders(folder / own[0])
            if (split := split_of(name)) and (folder / own[1] / name).is_dir()
        ]
        return inside or [_Pair("", *own)]
    found = []
    for name in names:
        pair = _named_pair(subfolders(folder / name)) if (split := split_of(name)) else None
        if split and pair:
            found.append(_Pair(split, f"{name}/{pair[0]}", f"{name}/{pair[1]}"))
    return found


def _named_pair(names: Collection[str]) -> tuple[str, str] | None:
    images = next((name for name in IMAGES if name in names), None)
    masks = next((name for name in MASKS if name in names), None)
    return None if images is None or masks is None else (images, masks)


def _by_stem(folder: Path, base: str, extensions: Collection[str], passed: Passed) -> dict[str, str]:
    """Files by their names without ending, relative to the base."""
    found: dict[str, str] = {}
    for name in _files(folder, base, extensions, passed):
        stem = name[len(base) + 1 :].rpartition(".")[0]
        if stem in found:
            raise DataError(
                f"{printable(folder / found[stem])} and {printable(name)} have one name: rename one of them."
            )
        found[stem] = name
    return found


def _files(folder: Path, base: str, extensions: Collection[str], passed: Passed) -> Iterator[str]:
    return (name for name in walk(folder / base, f"{base}/", set(), passed) if is_image(folder / name, extensions))


def _check_complete(folder: Path, pair: _Pair, images: dict[str, str], masks: dict[str, str]) -> None:
    for have, lack, what, where in (
        (images, masks, "mask", pair.masks),
        (masks, images, "image", pair.images),
    ):
        alone = sorted(set(have) - set(lack))
        if alone:
            more = f" (nor have {counted(len(alone) - 1, 'other')})" if len(alone) > 1 else ""
            raise DataError(
                f"{printable(folder / have[alone[0]])} has no {what} of the same name in {where}{more}: add it, or take "
                "the file away."
            )
