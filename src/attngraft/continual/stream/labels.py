"""Read labels that arrive for a stream, and match them with predictions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...data import UNLABELLED, ImageSet
from ...data.image_table import read_labels
from ..drift.cusum import CusumState, ErrorCusum

Row = Mapping[str, str]  # of the predictions: image, pixels, class, probability, window


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
