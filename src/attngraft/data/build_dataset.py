"""Build a data set from decoded images: splits, checks, report, fingerprint."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from ..config import DEFAULT_DEPTH, Depth, ImageSize, Resize, sides
from ..errors import ConfigError, DataError, counted
from .class_names import quoted
from .dataset import DataReport, Dataset, ImageSet
from .geometry import part_cut_off
from .image_groups import check_group_by, column_of, groups_of
from .leaks import FoundLeaks, find_leaks, image_families, without_leaks
from .pixel_store import PixelStore, Progress, empty_store
from .read_image import PIXEL_CAP
from .split_names import parse_splits
from .splits import carve, carve_loosely, thin
from .targets import ClassLabels, LabelSets, Targets


def check_at_least_1(**values: ImageSize | None) -> None:
    """Raise ConfigError for sizes and numbers below 1; None is not given."""
    for name, value in values.items():
        if value is not None and min(sides(value)) < 1:
            raise ConfigError(f"{name} is {value}: expected at least 1.")


MUCH_CUT_OFF = 0.4  # of an image's area; a photograph of 16 x 9 loses 44 % in a square
_PARTS = {
    "classification": "each class",
    "multilabel": "the images, stratified by the rarest label of each",
    "regression": "the images, stratified by the first target",
}


@dataclass(frozen=True)
class LoadOptions:
    """The options of `load_data`, checked once; a depth of None is "auto".

    Raises:
        ConfigError: a value out of range.
    """

    image_size: ImageSize
    root: Path
    cache_dir: Path
    split_seed: int = 0
    val_fraction: float = 0.0
    test_fraction: float = 0.2
    skip_broken: bool = False
    pixel_cap: int = PIXEL_CAP
    download: bool = False
    limit: int | None = None
    fix_leaks: bool = False
    task: str | None = None
    group_by: str | None = None
    splits: str | None = None
    channels: int = 3
    resize: Resize = "crop"
    depth: Depth | None = None
    sampled_first: bool = True
    ignore_index: int | None = None
    progress: Progress | None = None

    def __post_init__(self) -> None:
        check_at_least_1(image_size=self.image_size, pixel_cap=self.pixel_cap, limit=self.limit, channels=self.channels)
        if not 0 <= self.val_fraction < 1:
            raise ConfigError(f"val_fraction is {self.val_fraction}: expected 0 or more and less than 1.")
        if self.group_by is not None:
            check_group_by(self.group_by)
        if self.splits is not None:
            parse_splits(self.splits)
        if self.ignore_index is not None and not 0 <= self.ignore_index <= 255:
            raise ConfigError(f"ignore_index is {self.ignore_index}: expected 0 to 255.")
        if not 0 < self.test_fraction < 1:
            raise ConfigError(f"test_fraction is {self.test_fraction}: expected more than 0 and less than 1.")


@dataclass(frozen=True, eq=False)
class Pool:
    """What a source hands over: every image that could be read, decoded, row i of the store being image i.

    Attributes:
        targets: what each image is labelled with.
        splits: "train", "val" or "test" per image, or "" where the source has no splits.
        boxes: (N, 4) in pixels of the stored image, or None.
        groups: (N,) text from a column of the source, or None.
        group_by: a rule for groups that holds where none is asked for.
        depth: black and white of images of more than 8 bits.
    """

    name: str
    classes: tuple[str, ...]
    ids: tuple[str, ...]
    targets: Targets
    splits: np.ndarray
    pixel_hashes: tuple[str, ...] = ()
    store: PixelStore = field(default_factory=empty_store)
    boxes: np.ndarray | None = None
    groups: np.ndarray | None = None
    group_by: str | None = None
    skipped: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    mirrorable: bool = True
    depth: Depth = DEFAULT_DEPTH

    @property
    def images(self) -> ImageSet:
        """All of them, whatever their split."""
        rows = np.arange(len(self.ids))
        return ImageSet(self.ids, self.targets, self.pixel_hashes, self.store, rows, self.boxes, self.groups)


def assemble(pool: Pool, options: LoadOptions) -> Dataset:
    """Make the splits that are missing, check them, and describe the result.

    Raises:
        DataError: a class has no image in a split, too few to be split, or none without a copy in an earlier split.
    """
    group_by = options.group_by or pool.group_by
    pool = _grouped(pool, group_by)
    everything = pool.images
    families, notes = image_families(everything) if options.fix_leaks and _is_carved(pool, options) else (None, ())
    together = families or pool.pixel_hashes if pool.groups is None else tuple(pool.groups.tolist())
    splits, made, drawn = _complete_splits(pool, options, together)
    check_classes(pool, splits)
    for name in ("train", "test"):
        if name not in splits:
            raise DataError(f"{pool.name} has no readable images for the {name} split: add some.")
    if options.fix_leaks:
        splits, moved = without_leaks(everything, splits, pool.classes)
        notes = (*notes, *moved)
    sets = {name: _limited(everything, np.flatnonzero(splits == name), options) for name in ("train", "val", "test")}
    present = {name: images for name, images in sets.items() if len(images)}
    leaks = find_leaks(present)
    notes = (
        *pool.notes,
        *made,
        *notes,
        *leaks.notes,
        *_shared_groups(present),
        *_copies_in_test(present["test"], leaks),
        *_label_conflicts(present),
        *_missing_labels(present, pool.classes),
        *(() if pool.targets.is_spatial else _cut_off(pool.store, options)),
        *_place_of_pixels(pool.store),
    )
    return Dataset(
        name=pool.name,
        classes=pool.classes,
        train=present["train"],
        val=present.get("val"),
        test=present["test"],
        report=DataReport(pool.skipped, leaks.exact, _duplicates(present), notes, leaks.near),
        fingerprint=fingerprint_of(pool.classes, present),
        mirrorable=pool.mirrorable,
        task=pool.targets.task,
        grouped_by=group_by,
        drawn=drawn,
        loaded_for=options.image_size,
        depth=pool.depth,
    )


def _grouped(pool: Pool, group_by: str | None) -> Pool:
    """The pool with the group of each image, where a rule is given.

    Raises:
        DataError: an image has no group.
    """
    if group_by is None or pool.groups is not None:
        return pool
    if column_of(group_by) is not None:
        raise DataError(f"group_by is {group_by!r} and {pool.name} has no columns: only a CSV file has them.")
    return replace(pool, groups=groups_of(pool.images, group_by))


def _shared_groups(sets: dict[str, ImageSet]) -> tuple[str, ...]:
    """A sentence where images of one group stand in training and test images."""
    groups = {name: set(images.groups.tolist()) for name, images in sets.items() if images.groups is not None}
    shared = groups["test"] & (groups["train"] | groups.get("val", set())) if groups else set()
    if not shared:
        return ()
    return (
        f"{len(shared)} of {counted(len(groups['test']), 'group')} of the test images are among the training images too: results "
        "hold for more images of known groups, not for new groups.",
    )


def _copies_in_test(test: ImageSet, leaks: FoundLeaks) -> tuple[str, ...]:
    """A sentence where test images are copies of each other, and nobody said that they belong together."""
    if test.groups is not None or not leaks.copies_in_test:
        return ()
    return (
        f"{leaks.copies_in_test} of {counted(len(test), 'test image')} are nearly equal to other test images: verdicts count them as "
        "independent, which --group-by copies (group_by='copies') does not.",
    )


def thin_splits(
    targets: Targets, splits: Sequence[str] | np.ndarray, ids: Sequence[str], options: LoadOptions
) -> np.ndarray:
    """Positions to read: those that `limit` leaves, or from which splits of that size can be drawn by chance."""
    splits, strata = np.asarray(splits), strata_of(targets)
    names = set(splits.tolist())
    if options.limit is None:
        return np.arange(len(targets))
    if "" in names or len(names) < 2:
        if not options.sampled_first:
            return np.arange(len(targets))
        shares = [share for share in (options.test_fraction, options.val_fraction) if share]
        smallest = min(*shares, max(1 - sum(shares), 0.01))
        enough, each = math.ceil(options.limit / smallest), math.ceil(1 / smallest)
        return thin(strata, ids, limit=enough, seed=options.split_seed, least=each)
    parts = []
    for name in sorted(names):
        members = np.flatnonzero(splits == name)
        keys = [ids[i] for i in members.tolist()]
        parts.append(members[thin(strata[members], keys, limit=options.limit, seed=options.split_seed)])
    return np.sort(np.concatenate(parts))


def _is_carved(pool: Pool, options: LoadOptions) -> bool:
    """Whether a split is to be made by chance."""
    own = set(pool.splits.tolist())
    return not own & {"val", "test"} or bool(options.val_fraction and not {"val", "test"} <= own)


def _complete_splits(
    pool: Pool, options: LoadOptions, families: Sequence[str]
) -> tuple[np.ndarray, tuple[str, ...], dict[str, str]]:
    """Every image in train, val or test, sentences on how that came about, and those of splits that were drawn; families
    stay on one side."""
    splits = pool.splits.astype("<U5")
    splits[splits == ""] = "train"
    notes, drawn = [], {}
    if "test" not in splits and "val" in splits:
        splits[splits == "val"] = "test"
        notes.append("there is no test split, so the validation images serve as the test set.")
    elif "test" not in splits:
        chosen = _carve(pool, families, splits, options.test_fraction, "test", options.split_seed)
        part = f"{options.test_fraction:.0%} of {_PARTS.get(pool.targets.task, 'the images')}"
        drawn["test"] = f"the test set is a random {part} (seed {options.split_seed})."
        splits[chosen] = "test"
    if "val" not in splits and options.val_fraction:
        splits[_carve(pool, families, splits, options.val_fraction, "val", options.split_seed)] = "val"
        of = "the training images of each class" if pool.targets.task == "classification" else "the training images"
        part = f"{options.val_fraction:.0%} of {of}"
        drawn["val"] = f"the validation set is a random {part} (seed {options.split_seed})."
    return splits, (*notes, *drawn.values()), drawn


def _carve(
    pool: Pool, families: Sequence[str], splits: np.ndarray, fraction: float, purpose: str, seed: int
) -> np.ndarray:
    """Positions chosen from the training images."""
    members = np.flatnonzero(splits == "train")
    kept, targets = [families[i] for i in members.tolist()], pool.targets.select(members)
    options: dict[str, Any] = {"fraction": fraction, "seed": seed, "purpose": purpose}
    if isinstance(targets, ClassLabels):
        return members[carve(targets.labels, kept, classes=pool.classes, **options)]
    sets = targets.labels if isinstance(targets, LabelSets) else None
    return members[carve_loosely(strata_of(targets), kept, sets=sets, **options)]


def check_classes(pool: Pool, splits: np.ndarray) -> None:
    """Broken files may have emptied a class that had files; of labels that an image may lack, some may be missing."""
    for name in dict.fromkeys(splits.tolist()):
        missing = _missing(pool.targets.select(np.flatnonzero(splits == name)), pool.classes)
        if missing and isinstance(pool.targets, ClassLabels):
            shown = ", ".join(repr(pool.classes[label]) for label in sorted(missing)[:5])
            raise DataError(f"no readable images of {shown} in the {name} split of {pool.name}: add some.")


def _missing(targets: Targets, names: Sequence[str]) -> list[int]:
    """Outputs that no image has, in order."""
    return [] if targets.present is None else sorted(set(range(len(names))) - targets.present)


def _missing_labels(sets: dict[str, ImageSet], names: Sequence[str]) -> list[str]:
    """Sentences on labels that no image of a split has, or every one."""
    found = {split: [names[i] for i in _missing(images.targets, names)] for split, images in sets.items()}
    notes = [f"no {split} image has the label {quoted(missing)}." for split, missing in found.items() if missing]
    for split, images in sets.items():
        if isinstance(images.targets, LabelSets):
            common = [names[i] for i in np.flatnonzero(images.targets.labels.all(0)).tolist()]
            told = f"every {split} image has the label {quoted(common)}"
            notes += [f"{told}, so its average precision there is always 100 %."] if common else []
    return notes


def strata_of(targets: Targets) -> np.ndarray:
    """The groups that a random choice keeps in proportion: one for all where the targets name none."""
    return np.zeros(len(targets), dtype=np.int64) if targets.strata is None else targets.strata


def _limited(everything: ImageSet, members: np.ndarray, options: LoadOptions) -> ImageSet:
    if options.limit is not None:
        keys = [everything.ids[i] for i in members]
        members = members[
            thin(strata_of(everything.targets)[members], keys, limit=options.limit, seed=options.split_seed)
        ]
    return everything.select(members)


def _duplicates(sets: dict[str, ImageSet]) -> int:
    return sum(len(images) - len(set(images.pixel_hashes)) for images in sets.values())


def _label_conflicts(sets: dict[str, ImageSet]) -> tuple[str, ...]:
    targets: dict[str, set[str | int]] = {}
    for images in sets.values():
        for position, pixels in enumerate(images.pixel_hashes):
            targets.setdefault(pixels, set()).add(images.targets.digest(position))
    conflicts = sum(len(found) > 1 for found in targets.values())
    return (f"{counted(conflicts, 'image', 'appear')} with different labels.",) if conflicts else ()


def _cut_off(store: PixelStore, options: LoadOptions) -> tuple[str, ...]:
    """A sentence where cropping cuts much off many or single images."""
    if options.resize != "crop":
        return ()
    parts = np.array(
        [part_cut_off(height, width, sides(options.image_size)) for height, width in store.shapes.tolist()]
    )
    found = parts[parts > MUCH_CUT_OFF]
    if not len(found):
        return ()
    return (
        f"{len(found)} of {counted(len(parts), 'image')} lose more than {MUCH_CUT_OFF:.0%} of their area, as their aspect ratio is not "
        f"that of the input (these lose {np.median(found):.0%} in the median and up to {found.max():.0%}): --resize pad or "
        "squash keeps all of it.",
    )


def _place_of_pixels(store: PixelStore) -> tuple[str, ...]:
    return (f"decoded images are kept in {store.path}; the file may be deleted.",) if store.path else ()


def fingerprint_of(classes: tuple[str, ...], sets: dict[str, ImageSet]) -> str:
    """Hash of classes and splits, see `Dataset`."""
    digest = blake2b(digest_size=16)
    digest.update("\0".join(classes).encode("utf-8", "surrogatepass"))
    task = next(iter(sets.values())).targets.task
    if task != "classification":  # the first tasks had no name here
        digest.update(f"\ntask:{task}".encode())
    for name in ("train", "val", "test"):
        images = sets.get(name)
        hashes = images.pixel_hashes if images else ()
        rows = (f"{pixels}={images.targets.digest(i)}" for i, pixels in enumerate(hashes)) if images else ()
        digest.update(f"\n{name}:".encode() + ",".join(rows).encode())
    return digest.hexdigest()
