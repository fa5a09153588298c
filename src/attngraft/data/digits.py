"""The built-in data set `cluttered-digits`: handwritten digits among fragments of others.

A small task on which looking at the right place pays, made of data that travels with the library. Everything is
computed in whole numbers, so that the pixels are the same on every machine. More images than there are handwritten
digits show the same digits again, elsewhere and among other fragments.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
from PIL import Image

from ..errors import counted
from .splits import hash64

CANVAS = 64
TRAIN_COUNT = 1000
TEST_COUNT = 400
MOST_IMAGES = 100_000
SAME_DIGIT = r"digits/\w+/\d+"  # a rule for groups: what the ids of images of one handwritten digit have in common
_FRAGMENTS = (2, 5)  # at least, below
_DIGIT_SIDE = (32, 45)
_INK_IN_BOX = 64


@dataclass(frozen=True)
class RenderedDigits:
    """Images of `cluttered-digits`.

    Attributes:
        images: (N, 64, 64, 3) uint8.
        labels: (N,) int64, the digit.
        boxes: (N, 4) float32, x0 y0 x1 y1 around the digit's ink, ends excluded.
        masks: (N, 64, 64) uint8, 0 for the background and the digit + 1 where its ink is; None where not asked for.
        splits: "train", "test" or "val" per image.
        ids: "digits/<split>/<number of the handwritten digit>", and "-1", "-2", ... where it is shown again.
        sources: which handwritten digit each image shows, as a row of `load_digits`.
    """

    images: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    splits: tuple[str, ...]
    ids: tuple[str, ...]
    sources: np.ndarray
    masks: np.ndarray | None = None

    @property
    def repeats(self) -> tuple[str, ...]:
        """A sentence on each split that shows handwritten digits more than once."""
        members = {split: self.sources[np.array(self.splits) == split] for split in dict.fromkeys(self.splits)}
        return tuple(
            f"the {counted(len(rows), f'{split} image')} show {counted(len(set(rows.tolist())), 'handwritten digit')}: images "
            "of one digit are a group."
            for split, rows in members.items()
            if len(set(rows.tolist())) < len(rows)
        )


def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """The handwritten digits: images (1797, 8, 8) uint8 with values 0 to 16, labels (1797,) int64."""
    with resources.files(__package__).joinpath("assets/digits.npz").open("rb") as file, np.load(file) as arrays:
        return arrays["images"], arrays["labels"].astype(np.int64)


Choose = Callable[[np.ndarray, tuple[str, ...], tuple[str, ...]], np.ndarray]


def render_splits(
    *,
    seed: int,
    val_count: int,
    train_count: int = TRAIN_COUNT,
    test_count: int = TEST_COUNT,
    choose: Choose | None = None,
    with_masks: bool = False,
) -> RenderedDigits:
    """Render the splits; no handwritten digit appears in two of them, neither whole nor as a fragment.

    Args:
        seed: decides the partition and every rendering.
        train_count, test_count: images; the partition does not depend on them, so the first 1,000 and 400 are the same.
        val_count: validation images, up to the 397 digits that the other splits leave.
        choose: positions of the images to render, from labels, splits and ids of all; without it all are rendered.
        with_masks: make masks too.
    """
    glyphs, labels = load_digits()
    parts = partition(len(glyphs), seed, val_count)
    counts = {"train": train_count, "test": test_count, "val": len(parts["val"])}
    shown = [(split, *divmod(i, len(parts[split]))) for split, count in counts.items() for i in range(count)]
    sources = np.array([parts[split][position] for split, _, position in shown])
    splits = tuple(split for split, _, _ in shown)
    ids = tuple(f"digits/{split}/{position:04d}{f'-{time}' if time else ''}" for split, time, position in shown)
    chosen = range(len(ids)) if choose is None else choose(labels[sources], splits, ids).tolist()
    rendered = []
    for i in chosen:
        row, rows, time = int(sources[i]), parts[splits[i]], shown[i][1]
        rng = np.random.default_rng(hash64("render", seed, row, *([time] if time else [])))
        rendered.append(_render(glyphs, row, rows[rows != row], rng))
    found = labels[sources[chosen]]
    return RenderedDigits(
        images=np.stack([image for image, _ in rendered]),
        labels=found,
        boxes=np.array([_box(ink) for _, ink in rendered], dtype=np.float32),
        splits=tuple(splits[i] for i in chosen),
        ids=tuple(ids[i] for i in chosen),
        sources=sources[chosen],
        masks=np.stack([ink * np.uint8(k + 1) for (_, ink), k in zip(rendered, found, strict=True)])
        if with_masks
        else None,
    )


def partition(count: int, seed: int, val_count: int) -> dict[str, np.ndarray]:
    """Disjoint sets of handwritten digits, as sorted rows, for train, test and val."""
    order = np.array(sorted(range(count), key=lambda i: hash64("digits", seed, i)))
    ends = np.cumsum([TRAIN_COUNT, TEST_COUNT, min(val_count, count - TRAIN_COUNT - TEST_COUNT)])
    parts = np.split(order[: ends[-1]], ends[:-1])
    return {name: np.sort(rows) for name, rows in zip(("train", "test", "val"), parts, strict=True)}


def _render(
    glyphs: np.ndarray, row: int, others: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The sample that shows one digit, and (64, 64) where its ink is."""
    canvas = np.empty((CANVAS, CANVAS, 3), dtype=np.int32)
    canvas[:] = rng.integers(10, 70, size=3)
    for _ in range(int(rng.integers(*_FRAGMENTS))):
        side, other = int(rng.integers(*_DIGIT_SIDE)), others[int(rng.integers(len(others)))]
        piece = _cut_out(_enlarged(glyphs[other], side), rng)
        _paint(canvas, piece, _place(piece, rng), rng)
    digit = _enlarged(glyphs[row], int(rng.integers(*_DIGIT_SIDE)))
    top, left = _place(digit, rng)
    _paint(canvas, digit, (top, left), rng)
    canvas += rng.integers(-12, 13, size=canvas.shape) + rng.integers(-12, 13, size=canvas.shape)
    ink = np.zeros((CANVAS, CANVAS), dtype=bool)
    ink[top : top + len(digit), left : left + len(digit)] = digit > _INK_IN_BOX
    return np.clip(canvas, 0, 255).astype(np.uint8), ink


def _box(ink: np.ndarray) -> tuple[int, int, int, int]:
    """x0 y0 x1 y1 around what is set, ends excluded."""
    inked = np.argwhere(ink)
    (y0, x0), (y1, x1) = inked.min(axis=0).tolist(), inked.max(axis=0).tolist()
    return x0, y0, x1 + 1, y1 + 1


def _enlarged(glyph: np.ndarray, side: int) -> np.ndarray:
    """(8, 8) with values to 16 -> (side, side) uint8 with values to 255, bicubic.

    Scaling is linear, so two small matrices do it; their entries are rounded to 1/256, which makes every sum exact.
    """
    weights = _scaling(side)
    grey = (glyph.astype(np.int64) * 255 // 16).astype(np.float64)
    return np.clip((weights @ grey @ weights.T) // 65536, 0, 255).astype(np.uint8)


@cache
def _scaling(side: int) -> np.ndarray:
    """(side, 8), in units of 1/256."""
    rows = Image.fromarray(np.eye(8, dtype=np.float32)).resize((8, side), Image.Resampling.BICUBIC)
    return np.rint(np.array(rows, dtype=np.float64) * 256)


def _cut_out(digit: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A ninth to a third of another digit's area, at the stroke width of a whole digit."""
    side = len(digit)
    height, width = (int(side * rng.integers(33, 58) // 100) for _ in range(2))
    top, left = int(rng.integers(side - height + 1)), int(rng.integers(side - width + 1))
    return digit[top : top + height, left : left + width]


def _place(piece: np.ndarray, rng: np.random.Generator) -> tuple[int, int]:
    """Top and left of a piece that lies wholly on the canvas."""
    height, width = piece.shape
    return int(rng.integers(CANVAS - height + 1)), int(rng.integers(CANVAS - width + 1))


def _paint(canvas: np.ndarray, ink: np.ndarray, place: tuple[int, int], rng: np.random.Generator) -> None:
    """Blend ink (h, w) in 0..255 of a random colour into the canvas, in place."""
    colour = rng.integers(110, 256, size=3, dtype=np.int32)
    top, left = place
    region = canvas[top : top + ink.shape[0], left : left + ink.shape[1]]
    region += ink[:, :, None].astype(np.int32) * (colour - region) // 255
