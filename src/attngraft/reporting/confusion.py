"""Confusion matrices of a run, and how they change between variants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .read_folder import Predictions

MOST_CELLS_WIDE = 12  # classes that still fit a matrix on the page
MOST_PAIRS = 20


@dataclass(frozen=True)
class Cell:
    """One number of a matrix; ``shade`` runs from -1 (bad) to 1 (good)."""

    text: str
    shade: float


@dataclass(frozen=True)
class Confusion:
    """A matrix for few classes; for many a list of pairs: true class, what it was taken for, and the images per seed,
    or before, after and their change.
    """

    title: str
    classes: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    pairs: tuple[tuple[str, ...], ...]
    seeds: int
    images: int


def confusion_change(
    name: str, pairs: Sequence[tuple[Predictions, Predictions]], classes: Sequence[str]
) -> Confusion | None:
    """Mean over seeds of the variant's counts minus the baseline's."""
    if not pairs:
        return None
    before = np.mean([one.confusion(len(classes)) for one, _ in pairs], axis=0)
    after = np.mean([other.confusion(len(classes)) for _, other in pairs], axis=0)
    change = after - before
    images = len(pairs[0][0].labels)
    small = len(classes) <= MOST_CELLS_WIDE
    rows = _matrix(change, signed=True) if small else ()
    listed = () if small else _mistakes((before, after, change), classes)
    return Confusion(name, tuple(classes), rows, listed, len(pairs), images)


def confusion_of(predictions: Predictions, classes: Sequence[str]) -> Confusion:
    """The counts of one run; for many classes the most frequent mistakes."""
    counts = predictions.confusion(len(classes))
    small = len(classes) <= MOST_CELLS_WIDE
    rows = _matrix(counts, signed=False) if small else ()
    listed = () if small else _mistakes((counts,), classes)
    return Confusion("confusion", tuple(classes), rows, listed, 1, len(predictions.labels))


def _matrix(counts: NDArray[np.float64], *, signed: bool) -> tuple[tuple[Cell, ...], ...]:
    """More on the diagonal is good, more beside it is bad."""
    good = np.where(np.eye(len(counts), dtype=bool), 1.0, -1.0) * counts
    if signed:
        shade = good / max(float(np.abs(counts).max()), 1e-9)
    else:
        shade = good / np.maximum(counts.sum(1, keepdims=True), 1.0)
    texts = _texts(counts, signed=signed)
    return tuple(
        tuple(Cell(text, round(float(part), 3)) for text, part in zip(words, parts, strict=True))
        for words, parts in zip(texts, shade, strict=True)
    )


def _mistakes(counts: Sequence[NDArray[np.float64]], classes: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Where the last of the counts are largest, with the numbers of all; a change, which comes after two, has a sign."""
    rows, columns = _largest_mistakes(counts[-1])
    words = (_texts(part[rows, columns][None], signed=index == 2)[0] for index, part in enumerate(counts))
    return tuple(
        (classes[true], classes[taken], *numbers) for true, taken, *numbers in zip(rows, columns, *words, strict=True)
    )


def _largest_mistakes(counts: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns of the largest numbers beside the diagonal."""
    size = np.abs(counts) * ~np.eye(len(counts), dtype=bool)
    order = np.argsort(-size, axis=None, kind="stable")[:MOST_PAIRS]
    rows, columns = np.unravel_index(order, counts.shape)
    there = size[rows, columns] > 0
    return rows[there], columns[there]


def _texts(counts: NDArray[np.float64], *, signed: bool) -> list[list[str]]:
    """One number of decimals throughout: none where all are whole."""
    decimals = 0 if np.equal(counts, np.round(counts)).all() else 1
    sign = "+" if signed else ""
    return [[_text(value, f"{sign}.{decimals}f") for value in row] for row in counts]


def _text(value: float, form: str) -> str:
    text = format(value, form)
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", "\u2212")
