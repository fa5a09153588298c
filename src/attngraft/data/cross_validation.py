"""Folds of a data set, for repeated cross-validation where images are too few for a test set of their own."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, DataError, counted
from .build_dataset import fingerprint_of, strata_of
from .concat import joined
from .dataset import DataReport, Dataset, ImageSet
from .leaks import find_leaks, image_families
from .splits import deal
from .targets import ClassLabels


@dataclass(frozen=True, eq=False)
class Folds:
    """Every way in which the images are parted into training and test images.

    Attributes:
        whole: all images, as training and as test images.
        assigned: (R, N) the fold of each image in every repetition.
        count: folds of a repetition.
    """

    whole: Dataset
    assigned: NDArray[np.int64]
    count: int

    def dataset(self, number: int) -> Dataset:
        """One fold as test images and the others to train on; folds are counted through all repetitions."""
        repetition, fold = divmod(number, self.count)
        images, test = self.whole.train, self.assigned[repetition] == fold
        parts = {"train": images.select(np.flatnonzero(~test)), "test": images.select(np.flatnonzero(test))}
        fingerprint = fingerprint_of(self.whole.classes, parts)
        return replace(self.whole, train=parts["train"], test=parts["test"], fingerprint=fingerprint)

    def name(self, number: int) -> str:
        """For people."""
        repetition, fold = divmod(number, self.count)
        again = f", repetition {repetition + 1}" if len(self.assigned) > 1 else ""
        return f"fold {fold + 1} of {self.count}{again}"


def cross_validation(dataset: Dataset, folds: int, repeats: int, *, seed: int, fix_leaks: bool = False) -> Folds:
    """Part the images into stratified folds; images of one group, and equal ones, stay in one fold.

    A test split that was drawn at random is parted too; one that the data bring, and a validation split of theirs, are
    not used.

    Args:
        dataset: with or without groups.
        folds: of each repetition, at least 2.
        repeats: how many times all images are parted anew.
        seed: of the first repetition.
        fix_leaks: also keep images that are nearly equal in one fold.

    Raises:
        ConfigError: fewer than two folds or no repetition.
        DataError: too few images or groups, in all or of a class.
    """
    if folds < 2 or repeats < 1:
        raise ConfigError(f"folds is {folds} and repeats {repeats}: expected at least 2 folds and 1 repetition.")
    used = [getattr(dataset, split) for split in ("train", "val", "test") if split == "train" or split in dataset.drawn]
    images = joined([part for part in used if part is not None])
    families, notes = image_families(images) if fix_leaks else (images.families, ())
    if images.groups is not None:
        families = images.families
    rows = [deal(strata_of(images.targets), families, folds=folds, seed=seed + again) for again in range(repeats)]
    for row in rows:
        _check_training(images, row, dataset.classes, folds)
    whole = replace(
        dataset,
        train=images,
        val=None,
        test=images,
        fingerprint=fingerprint_of(dataset.classes, {"train": images}),
        origin=None,
        report=replace(dataset.report, notes=(*_kept_notes(dataset), *notes), leaks=(), near_leaks=()),
    )
    found = Folds(whole, np.stack(rows), folds)
    return replace(found, whole=replace(whole, report=_with_leaks(found)))


def _kept_notes(dataset: Dataset) -> list[str]:
    """What was noticed, without the splits that are made anew, and with those that are not used."""
    notes = [note for note in dataset.report.notes if note not in dataset.drawn.values()]
    unused = [(name, getattr(dataset, name)) for name in ("val", "test") if name not in dataset.drawn]
    words = {"val": "validation", "test": "test"}
    return notes + [
        f"the {counted(len(images), f'{words[name]} image')} that the data bring are not used: the folds are made of the training "
        "images."
        for name, images in unused
        if images is not None
    ]


def _with_leaks(folds: Folds) -> DataReport:
    """The report with the copies that lie across the border of the first fold, as an example."""
    first, report = folds.dataset(0), folds.whole.report
    leaks = find_leaks({"train": first.train, "test": first.test})
    return replace(report, leaks=leaks.exact, near_leaks=leaks.near, notes=(*report.notes, *leaks.notes))


def _check_training(images: ImageSet, row: NDArray[np.int64], classes: tuple[str, ...], folds: int) -> None:
    """Raise where a fold is empty, or all images of a class are in one."""
    if len(np.unique(row)) < folds:
        raise DataError(
            f"{counted(len(row), 'image')}, or fewer groups of them, are too few for {folds} folds: ask for fewer."
        )
    if not isinstance(images.targets, ClassLabels):
        return
    labels = images.targets.labels
    alone = [classes[c] for c in np.unique(labels).tolist() if len(np.unique(row[labels == c])) < 2]
    if alone:
        raise DataError(
            f"all images of {', '.join(map(repr, alone[:5]))} are in one fold, so that nothing is left to train on: add images, "
            "at least two are needed per class that do not belong together."
        )
