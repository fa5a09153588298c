"""Targets of an image set: class labels, label sets or numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from ..errors import DataError

if TYPE_CHECKING:
    from typing_extensions import Self

_MOST_BINS, _LEAST_IN_BIN = 10, 20  # of the first value, for stratified splits of regression data

T = TypeVar("T", bound="Targets")


class Targets(Protocol):
    """The targets of N images. They may be read lazily, so nothing may assume that they are one array.

    Attributes:
        task: name of the task that they are for.
        strata: (N,) int64, groups that a random split keeps in proportion; None where there are none.
        present: which outputs some image has, as positions in the names; None where that has no meaning.
        is_spatial: whether they have places in the images, so that nothing of an image should be cut off.
    """

    task: ClassVar[str]
    is_spatial: ClassVar[bool]

    def __len__(self) -> int: ...

    @property
    def strata(self) -> NDArray[np.int64] | None: ...

    @property
    def present(self) -> frozenset[int] | None: ...

    def select(self: T, positions: Sequence[int] | NDArray[Any]) -> T:
        """The targets at these positions, in this order."""

    def extend(self: T, others: Sequence[T]) -> T:
        """These targets, then those of the others."""

    def get(self, position: int) -> Any:
        """The target of one image."""

    def collate(self, positions: Sequence[int] | NDArray[Any]) -> Any:
        """The targets of a batch: a tensor whose first axis counts the images, or something that is sliced like one."""

    def digest(self, position: int) -> str | int:
        """What enters the fingerprint of the data; equal where targets are equal."""


class _Array:
    """Targets that are the rows of an array, the first field of a subclass; it keeps what may be in it.

    Attributes:
        batched: the type of a batch.
    """

    batched: ClassVar[type[np.generic]] = np.float32
    is_spatial: ClassVar[bool] = False

    @property
    def array(self) -> NDArray[Any]:
        """(N, ...), one row per image."""
        return next(iter(vars(self).values()))

    def __len__(self) -> int:
        return len(self.array)

    def select(self, positions: Sequence[int] | NDArray[Any]) -> Self:
        return type(self)(self.array[np.asarray(positions)])  # type: ignore[call-arg]

    def extend(self, others: Sequence[Self]) -> Self:
        return type(self)(np.concatenate([self.array, *(other.array for other in others)]))  # type: ignore[call-arg]

    def get(self, position: int) -> Any:
        return self.array[position]

    def collate(self, positions: Sequence[int] | NDArray[Any]) -> torch.Tensor:
        """(B, ...)"""
        return torch.from_numpy(self.array[np.asarray(positions, dtype=np.int64)].astype(self.batched))


@dataclass(frozen=True, eq=False)
class ClassLabels(_Array):
    """One class per image.

    Attributes:
        labels: (N,) int64, index into the classes; -1 where unknown.
    """

    labels: NDArray[np.int64]
    task: ClassVar[str] = "classification"
    batched = np.int64

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", np.asarray(self.labels, dtype=np.int64))

    @classmethod
    def named(cls, names: Sequence[str], classes: Sequence[str]) -> ClassLabels:
        """Labels from the name of the class of each image."""
        number = {name: index for index, name in enumerate(classes)}
        return cls(np.array([number[name] for name in names], dtype=np.int64))

    @property
    def strata(self) -> NDArray[np.int64]:
        return self.labels

    @property
    def present(self) -> frozenset[int]:
        return frozenset(self.labels.tolist()) - {-1}

    def get(self, position: int) -> int:
        return int(self.labels[position])

    def digest(self, position: int) -> int:
        return int(self.labels[position])


@dataclass(frozen=True, eq=False)
class LabelSets(_Array):
    """Any number of labels per image.

    Attributes:
        labels: (N, K) uint8, 1 where an image has a label.
    """

    labels: NDArray[np.uint8]
    task: ClassVar[str] = "multilabel"

    def __post_init__(self) -> None:
        given = np.asarray(self.labels)
        if given.ndim != 2 or not np.isin(given, (0, 1)).all():
            raise DataError(f"got labels of shape {given.shape}: expected images x labels, each 0 or 1.")
        object.__setattr__(self, "labels", given.astype(np.uint8))

    @property
    def strata(self) -> NDArray[np.int64]:
        """The rarest label of each image, K where it has none."""
        return rarest_outputs(self.labels.astype(bool))

    @property
    def present(self) -> frozenset[int]:
        return frozenset(np.flatnonzero(self.labels.any(axis=0)).tolist())

    def digest(self, position: int) -> str:
        return "+".join(map(str, np.flatnonzero(self.labels[position])))


@dataclass(frozen=True, eq=False)
class Values(_Array):
    """One or several numbers per image.

    Attributes:
        values: (N, T) float64.
    """

    values: NDArray[np.float64]
    task: ClassVar[str] = "regression"
    present: ClassVar[None] = None

    def __post_init__(self) -> None:
        given = np.asarray(self.values, dtype=np.float64)
        given = given[:, None] if given.ndim == 1 else given
        if given.ndim != 2 or not np.isfinite(given).all():
            raise DataError(f"got values of shape {given.shape}: expected images x targets, all of them finite.")
        object.__setattr__(self, "values", given)

    @property
    def strata(self) -> NDArray[np.int64]:
        """Up to ten groups of equal size, at least 20 images each, by the first value; equal values stay together."""
        first = self.values[:, 0]
        bins = min(_MOST_BINS, len(first) // _LEAST_IN_BIN)
        edges = np.unique(np.quantile(first, np.linspace(0, 1, bins + 1)[1:-1])) if bins > 1 else first[:0]
        return np.searchsorted(edges, first, side="left").astype(np.int64)

    def digest(self, position: int) -> str:
        return ",".join(map(repr, self.values[position].tolist()))


def rarest_outputs(has: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(N,) the output of each image that the fewest images have, K where it has none; from (N, K)."""
    ranked = np.where(has, has.sum(axis=0, dtype=np.int64), len(has) + 1)
    padded = np.concatenate([ranked, np.full((len(ranked), 1), len(has))], axis=1)
    return padded.argmin(axis=1).astype(np.int64)


def as_targets(given: Targets | ArrayLike) -> Targets:
    """Targets as they are; whole numbers, one per image, as class labels.

    Raises:
        DataError: an array of another kind.
    """
    if not isinstance(given, (np.ndarray, list, tuple)):
        return cast(Targets, given)
    array = np.asarray(given)
    if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
        raise DataError(
            f"got targets of shape {array.shape} and type {array.dtype}: expected one whole number per image, or "
            "ClassLabels, LabelSets or Values."
        )
    return ClassLabels(array)
