"""The reference sample of drift tests: predictions, statistics of the images, and the columns that are tested."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...data import ImageSet, rgb_preview
from ...errors import ConfigError

INPUT_STATISTICS = (
    "red mean",
    "green mean",
    "blue mean",
    "red spread",
    "green spread",
    "blue spread",
    "sharpness",
    "noise",
    "saturated pixels",
)
_BATCH_PIXELS = 1 << 20


@dataclass(frozen=True, eq=False)
class Reference:
    """A stream without drift, with which windows are compared. Its images must not have been trained on.

    Attributes:
        probabilities: (N, K) float32, the model's predictions.
        inputs: (N, F) float32, see `input_statistics`.
        errors: (N,) bool, True where the prediction was wrong; None without labels.
        classes: K names, for messages; empty for none.

    Raises:
        ConfigError: shapes that do not belong together, or values that are not finite.
    """

    probabilities: NDArray[np.float32]
    inputs: NDArray[np.float32]
    errors: NDArray[np.bool_] | None = None
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_predictions(self.probabilities, self.inputs)
        images, classes = self.probabilities.shape
        if self.errors is not None and self.errors.shape != (images,):
            raise ConfigError(f"errors have the shape {self.errors.shape}: expected ({images},), one for each image.")
        if self.classes and len(self.classes) != classes:
            raise ConfigError(f"got {len(self.classes)} class names for {classes} probabilities: give one for each.")

    def __len__(self) -> int:
        return len(self.probabilities)


def check_predictions(probabilities: NDArray[np.float32], inputs: NDArray[np.float32]) -> None:
    """Raise unless these are finite predictions and input statistics of the same images.

    Raises:
        ConfigError: they are not.
    """
    if probabilities.ndim != 2 or inputs.ndim != 2 or len(probabilities) != len(inputs) or not probabilities.shape[1]:
        raise ConfigError(
            f"got probabilities of shape {probabilities.shape} and inputs of shape {inputs.shape}: "
            "expected (N, K) and (N, F) for the same N images."
        )
    if not np.isfinite(probabilities).all() or not np.isfinite(inputs).all():
        raise ConfigError("some probabilities or input statistics are not finite: look for the images that cause it.")


@dataclass(frozen=True)
class Columns:
    """The columns of a window that are tested.

    Attributes:
        names: one per column, as in "class 'cat'".
        own: classes with a column of their own; the others share one.
        classes: names of all classes; empty for none.
    """

    names: tuple[str, ...]
    own: tuple[int, ...]
    classes: tuple[str, ...]

    @staticmethod
    def choose(reference: Reference, most_classes: int) -> Columns:
        """Confidence, the most frequently predicted classes, the others together, and the inputs."""
        count = reference.probabilities.shape[1]
        predicted = np.bincount(reference.probabilities.argmax(axis=1), minlength=count)
        own = sorted(np.argsort(-predicted, kind="stable")[:most_classes].tolist())
        columns = Columns((), tuple(own), reference.classes)
        others = [f"the other {count - len(own)} classes"] if len(own) < count else []
        inputs = reference.inputs.shape[1]
        known = INPUT_STATISTICS if inputs == len(INPUT_STATISTICS) else tuple(map(str, range(inputs)))
        names = ["confidence", *(f"class {columns.class_name(k)}" for k in own), *others]
        return Columns((*names, *(f"input {name}" for name in known)), tuple(own), reference.classes)

    def class_name(self, number: int) -> str:
        """The class in quotes, or its number where its name is not known."""
        return repr(self.classes[number]) if self.classes else str(number)

    def of(self, probabilities: NDArray[np.float32], inputs: NDArray[np.float32]) -> NDArray[np.float64]:
        """(n, K) probabilities and (n, F) input statistics -> (n, J) float64."""
        own = probabilities[:, list(self.own)].astype(np.float64)
        others = [1 - own.sum(axis=1)] if len(self.own) < probabilities.shape[1] else []
        return np.column_stack([probabilities.max(axis=1), own, *others, inputs]).astype(np.float64)


def input_statistics(images: ImageSet) -> NDArray[np.float32]:
    """Compute simple statistics of every image as it is stored, with values in 0..1; other channels than RGB as grey.

    Mean and standard deviation of each channel; sharpness (mean absolute difference of neighbouring pixels in grey);
    noise (the estimate of Immerkaer, Computer Vision and Image Understanding 64(2), 1996, in grey; 0 for images with
    a side below 3); the part of the values that are 0 or 255.

    Returns:
        (N, F) float32 in the order of `INPUT_STATISTICS`.
    """
    found = np.empty((len(images), len(INPUT_STATISTICS)), dtype=np.float32)
    for positions in _batches(images):
        pixels = np.stack([rgb_preview(images.image(i)).numpy() for i in positions])  # (B, 3, H, W)
        found[positions] = _statistics(pixels)
    return found


def _batches(images: ImageSet) -> Iterator[list[int]]:
    """Positions of images of equal size, in batches."""
    shapes = images.store.shapes[images.rows]
    for height, width in np.unique(shapes, axis=0).tolist():
        members = np.flatnonzero((shapes == (height, width)).all(1)).tolist()
        step = max(1, _BATCH_PIXELS // (height * width))
        yield from (members[start : start + step] for start in range(0, len(members), step))


def _statistics(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(B, 3, H, W) uint8 -> (B, F)."""
    values = pixels.astype(np.float32) / 255
    grey = values.mean(axis=1)
    saturated = ((pixels == 0) | (pixels == 255)).mean(axis=(1, 2, 3))
    numbers = (*values.mean(axis=(2, 3)).T, *values.std(axis=(2, 3)).T, _sharpness(grey), _noise(grey), saturated)
    return np.stack(numbers, axis=1).astype(np.float32)


def _sharpness(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    total = np.zeros(len(grey), dtype=np.float32)
    for axis in (1, 2):
        if grey.shape[axis] > 1:
            total += np.abs(np.diff(grey, axis=axis)).mean(axis=(1, 2))
    return np.asarray(total / 2, dtype=np.float32)


def _noise(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    """The difference of two Laplacians sees noise and hardly any edge."""
    if min(grey.shape[1:]) < 3:
        return np.zeros(len(grey), dtype=np.float32)
    rows = grey[:, :-2] - 2 * grey[:, 1:-1] + grey[:, 2:]
    both = rows[:, :, :-2] - 2 * rows[:, :, 1:-1] + rows[:, :, 2:]
    return np.asarray(np.sqrt(np.pi / 2) / 6 * np.abs(both).mean(axis=(1, 2)), dtype=np.float32)
