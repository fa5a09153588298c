"""The reference sample of drift tests: predictions, input statistics, errors, and the columns that are tested."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError
from .image_statistics import INPUT_STATISTICS


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
