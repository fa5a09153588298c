"""Input statistics that are tested for drift, with their names."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .drift_reference import INPUT_STATISTICS, Reference


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
