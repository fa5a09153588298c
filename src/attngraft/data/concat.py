"""Concatenate image sets without copying pixels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ..errors import ConfigError
from .dataset import ImageSet
from .pixel_store import Pixels


class JoinedStore:
    """Several pixel stores one after the other, as one.

    Args:
        parts: the stores; row r of part k is row len(part 0) + ... + len(part k - 1) + r here.
    """

    def __init__(self, parts: Sequence[Pixels]) -> None:
        self.parts = tuple(parts)
        self.starts = np.concatenate([[0], np.cumsum([len(part) for part in self.parts])]).astype(np.int64)
        self.shapes = np.concatenate([part.shapes for part in self.parts])
        self.channels = self.parts[0].channels
        if any(part.channels != self.channels for part in self.parts):
            numbers = sorted({part.channels for part in self.parts})
            raise ConfigError(f"the images have {numbers} channels: join only those of one number.")

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def path(self) -> Path | None:
        """The cache file of the first part that has one."""
        return next((part.path for part in self.parts if part.path is not None), None)

    def image(self, row: int) -> torch.Tensor:
        """(C, H, W), a copy, laid out with channels last."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        # the last part that starts at or before the row: empty parts share the start of the next one
        part = int(np.searchsorted(self.starts, row, side="right")) - 1
        return self.parts[part].image(row - int(self.starts[part]))


def joined(sets: Sequence[ImageSet]) -> ImageSet:
    """The images of several sets in one, in the order given.

    Targets are taken as they are, so the sets must be of one task and count the same classes. A store that several sets share is taken
    once. Boxes and groups are kept where every set has them.

    Raises:
        ConfigError: no sets.
    """
    if not sets:
        raise ConfigError("there are no image sets to join: give at least one.")
    if len(sets) == 1:
        return sets[0]
    stores = _different_stores(sets)
    joined_store = JoinedStore(stores) if len(stores) > 1 else None
    boxes = [images.boxes for images in sets if images.boxes is not None]
    groups = [images.groups for images in sets if images.groups is not None]
    return ImageSet(
        ids=tuple(image_id for images in sets for image_id in images.ids),
        targets=sets[0].targets.extend([images.targets for images in sets[1:]]),
        pixel_hashes=tuple(digest for images in sets for digest in images.pixel_hashes),
        store=stores[0] if joined_store is None else joined_store,
        rows=np.concatenate([_rows(images, stores, joined_store) for images in sets]),
        boxes=np.concatenate(boxes) if len(boxes) == len(sets) else None,
        groups=np.concatenate(groups) if len(groups) == len(sets) else None,
    )


def _parts(store: Pixels) -> tuple[Pixels, ...]:
    return store.parts if isinstance(store, JoinedStore) else (store,)


def _different_stores(sets: Sequence[ImageSet]) -> tuple[Pixels, ...]:
    """Each store once, joined ones by their parts."""
    return tuple({id(part): part for images in sets for part in _parts(images.store)}.values())


def _rows(images: ImageSet, stores: Sequence[Pixels], joined_store: JoinedStore | None) -> np.ndarray:
    """Where the images lie in the joined store."""
    if joined_store is None:
        return np.asarray(images.rows, dtype=np.int64)
    place = {id(store): int(start) for store, start in zip(stores, joined_store.starts, strict=False)}
    if not isinstance(images.store, JoinedStore):
        return np.asarray(images.rows, dtype=np.int64) + place[id(images.store)]
    part = np.searchsorted(images.store.starts, images.rows, side="right") - 1
    shift = np.array([place[id(inner)] for inner in images.store.parts], dtype=np.int64) - images.store.starts[:-1]
    return np.asarray(images.rows, dtype=np.int64) + shift[part]
