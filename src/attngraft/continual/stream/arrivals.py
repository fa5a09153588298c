"""What arrives for a watch: image files, and labels, which are matched with predictions and tested for a loss."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...config import Preprocessing
from ...data import UNLABELLED, ImageSet, list_images
from ...data.image_table import read_labels
from ...data.inference_images import decode_images
from ...errors import DataError
from ..drift.cusum import CusumState, ErrorCusum

UNREADABLE = "it cannot be read"
Row = Mapping[str, str]  # of the predictions: image, pixels, class, probability, window
LEVEL = 0.05


class FolderWatcher:
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
        """Paths, relative to the folder, of settled images that were not seen before.

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

    def read(
        self, names: Sequence[str], known: Collection[str], preprocessing: Preprocessing, *, skip_broken: bool
    ) -> tuple[ImageSet | None, dict[str, str]]:
        """Read images, without files that cannot be read and without repetitions.

        Args:
            names: relative paths.
            known: pixel hashes of earlier images.
            preprocessing: of the model.
            skip_broken: leave out files that cannot be read, instead of an error.

        Returns:
            the images, None where there are none, and why each of the others is left out.

        Raises:
            DataError: files that cannot be read and may not be left out.
        """
        try:
            images = decode_images(
                [self.folder / name for name in names],
                names,
                np.full(len(names), UNLABELLED, dtype=np.int64),
                **preprocessing.read_options,
                skip_broken=skip_broken,
                cache_dir=None,
                progress=None,
            )
        except DataError:
            if not skip_broken:
                raise
            return None, dict.fromkeys(names, UNREADABLE)  # not one can be read
        left_out = dict.fromkeys(set(names) - set(images.ids), UNREADABLE)
        found: dict[str, int] = {}
        for position, (name, pixels) in enumerate(zip(images.ids, images.pixel_hashes, strict=True)):
            if pixels in known or pixels in found:
                left_out[name] = "the same image came before"
            else:
                found[pixels] = position
        return (images.select(list(found.values())) if found else None), left_out

    def _images(self) -> tuple[Path, ...]:
        if not self.folder.is_dir():
            raise DataError(f"{self.folder} is no folder: give the folder in which images appear.")
        try:
            return list_images([self.folder])
        except DataError:  # it is still empty
            return ()


@dataclass(frozen=True)
class Evidence:
    """Where the test for a higher error rate stands.

    Attributes:
        value: of the CUSUM.
        rising: number of the window since which it is above 0; None at 0.
        alarm: whether it has reached the threshold at any label.
    """

    value: float
    rising: int | None
    alarm: bool = False


def state_of_files(labels: Path) -> Any:
    """Changes whenever a file of the labels does."""
    files = [labels] if labels.is_file() else sorted(path for path in labels.rglob("*") if path.is_file())
    found = []
    for path in files:
        try:
            status = path.stat()
        except OSError:  # taken away since it was listed
            continue
        found.append((str(path), status.st_mtime_ns, status.st_size))
    return found


def is_filled_in(tables: Path) -> bool:
    """Whether any table of a folder has a label.

    Raises:
        DataError: a file is not such a table.
    """
    found = [path for path in sorted(tables.glob("*.csv")) if not path.name.startswith(".")]
    return any(read_labels(path, partly=True)[1] for path in found)


def true_labels(images: ImageSet) -> dict[str, int]:
    """Pixel hash -> label, without images that have several labels."""
    found: dict[str, int] = {}
    contradictory = set()
    for pixels, label in zip(images.pixel_hashes, images.labels.tolist(), strict=True):
        if label != UNLABELLED and found.setdefault(pixels, label) != label:
            contradictory.add(pixels)
    return {pixels: label for pixels, label in found.items() if pixels not in contradictory}


def are_right(rows: Sequence[Row], true: Mapping[str, int], classes: Sequence[str]) -> NDArray[np.bool_]:
    """(n,) whether each prediction is correct."""
    return np.array([row["class"] == classes[true[row["pixels"]]] for row in rows], dtype=bool)


def accuracy_by_window(rows: Sequence[Row], right: NDArray[np.bool_]) -> dict[str, float]:
    """Accuracy of the labelled predictions of each window, by its number."""
    windows = np.array([int(row["window"]) for row in rows])
    return {str(window): float(right[windows == window].mean()) for window in np.unique(windows)}


def follow(
    cusum: ErrorCusum | None, before: Evidence, rows: Sequence[Row], right: NDArray[np.bool_], counted: Collection[str]
) -> Evidence:
    """The evidence after more labels, in the order of the stream.

    Args:
        cusum: None where the error rate cannot rise.
        before: where the test stood.
        rows, right: the labelled predictions.
        counted: numbers of the windows that the served version predicted; errors of another one say nothing about it.
    """
    value, rising, alarm = before.value, before.rising, False
    if cusum is None:
        return Evidence(0.0, None)
    for row, correct in zip(rows, right.tolist(), strict=True):
        if row["window"] not in counted:
            continue
        after = cusum.update(np.array([not correct]), CusumState(value))
        value, alarm = after.value, alarm or after.alarm
        rising = (rising or int(row["window"])) if value else None
    return Evidence(value, rising, alarm)


@dataclass(frozen=True)
class LossTest:
    """Accuracy on labelled images against the accuracy that the same model is known to have on these classes.

    Attributes:
        expected: accuracy with the known accuracy of each class.
        p_value: of an accuracy this low where only the class proportions have changed.
    """

    observed: float
    expected: float
    p_value: float

    @property
    def is_lost(self) -> bool:
        return self.p_value < LEVEL

    def __str__(self) -> str:
        return f"top-1 {self.observed:.1%} where {self.expected:.1%} are expected for these classes (p = {self.p_value:.2g})"


def find_loss(
    right: NDArray[np.bool_], labels: NDArray[np.int64], known_right: NDArray[np.bool_], known_labels: NDArray[np.int64]
) -> LossTest:
    """Test whether the accuracy is lower than known, class by class.

    The accuracy of a class is taken as (right + 1) / (known + 2), so that few known images promise little; a class
    without any has the accuracy of all classes together, with the weight of one image.

    Args:
        right, labels: (n,) of the images in question.
        known_right, known_labels: (m,) of images that the model has not learned from.

    Returns:
        a one-sided test, with the uncertainty of both sides in its normal approximation.
    """
    from scipy.stats import norm

    count = len(labels)
    expected = variance = 0.0
    for label in np.unique(labels):
        mine = known_right[known_labels == label]
        accuracy = (mine.sum() + 1) / (len(mine) + 2) if len(mine) else float(known_right.mean())
        share = float((labels == label).mean())
        expected += share * accuracy
        variance += accuracy * (1 - accuracy) * (share / count + share**2 / max(1, len(mine)))
    observed = float(right.mean())
    spread = max(np.sqrt(variance), 1e-9)
    return LossTest(observed, float(expected), float(norm.cdf((observed - expected) / spread)))
