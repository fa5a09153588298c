"""Image sets, data sets with splits, and what was noticed while reading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from ..config import ADDED, DEFAULT_DEPTH, Depth, ImageSize
from ..errors import DataError
from .pixel_store import Pixels
from .targets import ClassLabels, Targets, as_targets


@dataclass(frozen=True, eq=False)
class ImageSet:
    """One split, decoded.

    Attributes:
        ids: one name per image, as a relative path ("train/ants/x.jpg") or "source/split/number".
        targets: what each image is labelled with; an array of whole numbers is taken as class labels.
        pixel_hashes: hash of each image as decoded, before it was shrunk.
        store: where the pixels lie, shared between the splits.
        rows: (N,) int64, the place of each image in the store.
        boxes: (N, 4) float32, x0 y0 x1 y1 of the object in pixels of the stored image, or None where unknown.
        groups: (N,) text, the same for images that belong together; None where every image stands for itself.
    """

    ids: tuple[str, ...]
    targets: Targets
    pixel_hashes: tuple[str, ...]
    store: Pixels
    rows: np.ndarray
    boxes: np.ndarray | None = None
    groups: np.ndarray | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", as_targets(self.targets))

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,) index into the classes, of a classification set.

        Raises:
            DataError: the images are labelled for another task.
        """
        if not isinstance(self.targets, ClassLabels):
            raise DataError(f"the images are labelled for {self.targets.task}: expected one class per image.")
        return self.targets.labels

    @property
    def families(self) -> tuple[str, ...]:
        """A text per image, the same for images that a split may not part: of one group, or with equal pixels."""
        return self.pixel_hashes if self.groups is None else tuple(self.groups.tolist())

    def image(self, i: int) -> torch.Tensor:
        """The stored image i: (C, H, W), a copy; uint8 for RGB, uint8 or float32 for others."""
        return self.store.image(int(self.rows[i]))

    def select(self, positions: Sequence[int] | np.ndarray) -> ImageSet:
        """The images at these positions, in this order; pixels are shared, not copied."""
        chosen = np.asarray(positions, dtype=np.int64)
        return ImageSet(
            ids=tuple(self.ids[i] for i in chosen),
            targets=self.targets.select(chosen),
            pixel_hashes=tuple(self.pixel_hashes[i] for i in chosen),
            store=self.store,
            rows=self.rows[chosen],
            boxes=None if self.boxes is None else self.boxes[chosen],
            groups=None if self.groups is None else self.groups[chosen],
        )


@dataclass(frozen=True)
class DataReport:
    """What was noticed while loading.

    Attributes:
        skipped: (path, reason) of every file that could not be read.
        leaks: (id, id) of images with equal pixels in two splits: train and val, train and test, val and test.
        duplicates: how many images repeat an earlier one of their own split.
        notes: sentences, for example where the test split came from.
        near_leaks: as `leaks`, of images that are alike but not equal: saved again, resized, a little cropped.
    """

    skipped: tuple[tuple[str, str], ...] = ()
    leaks: tuple[tuple[str, str], ...] = ()
    duplicates: int = 0
    notes: tuple[str, ...] = ()
    near_leaks: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, eq=False)
class Dataset:
    """Classes, splits and a fingerprint.

    Attributes:
        name: the source's name or the folder's.
        classes: names of the outputs: classes (a label is an index into them; those of a folder are sorted), labels
            or numeric targets.
        train, val, test: the splits; val is None where there is none.
        report: what was noticed while loading.
        fingerprint: hash of classes, split membership, targets, pixels and their order; file names do not enter, but
            order does, because augmentation and the pairing of a comparison go by position.
        mirrorable: False where a mirrored image means something else, as with digits.
        origin: where it was loaded from and how it was split; None for one that was put together by hand.
        task: name of the task that the targets are for.
        grouped_by: the rule that the images' groups come from; None without groups.
        drawn: splits that were drawn at random -> the note that says so; the others come with the data.
        depth: black and white of images of more than 8 bits.
        loaded_for: the image size that the images were shrunk for; None where that is not known.
    """

    name: str
    classes: tuple[str, ...]
    train: ImageSet
    val: ImageSet | None
    test: ImageSet
    report: DataReport
    fingerprint: str
    mirrorable: bool = True
    origin: Origin | None = None
    task: str = "classification"
    grouped_by: str | None = None
    drawn: Mapping[str, str] = field(default_factory=dict)
    loaded_for: ImageSize | None = None
    depth: Depth = DEFAULT_DEPTH


@dataclass(frozen=True)
class Origin:
    """Enough to load the same data again.

    Attributes:
        source: name of a built-in data set, or the absolute path of the folder.
        split_seed, val_fraction, test_fraction, limit, skip_broken, fix_leaks, task, group_by, splits, sampled_first,
            ignore_index: as for `load_data`; earlier records have limited the images after the splits were made.
    """

    source: str
    split_seed: int = 0
    val_fraction: float = 0.0
    test_fraction: float = 0.2
    limit: int | None = None
    skip_broken: bool = False
    fix_leaks: bool = False
    task: str | None = field(default=None, metadata=ADDED)
    group_by: str | None = field(default=None, metadata=ADDED)
    splits: str | None = field(default=None, metadata=ADDED)
    sampled_first: bool = field(default=False, metadata=ADDED)
    ignore_index: int | None = field(default=None, metadata=ADDED)
