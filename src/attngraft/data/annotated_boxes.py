"""Images with annotated boxes: what the readers of all formats give, and the checks that they share."""

from __future__ import annotations

import math
import os
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, counted
from .boxes import upright_size
from .class_names import quoted
from .read_image import UnreadableImageError, printable, read_image

_DRIVE = re.compile(r"[A-Za-z]:")
_ROUNDING = 1.0  # pixels that a box may reach out of its image without being mentioned
_SIZES, _FLAT, _OUTSIDE, _CUT = "sizes", "flat", "outside", "cut"
_SAID = {
    _SIZES: ("image", "have", "another size than is annotated: the file counts"),
    _FLAT: ("object", "were", "left out for a box without area"),
    _OUTSIDE: ("object", "were", "left out for a box outside of the image"),
    _CUT: ("object", "extend", "beyond the image and had to be clipped"),
}


@dataclass(frozen=True, eq=False)
class AnnotatedImage:
    """One image and its objects.

    Attributes:
        path: relative to the data folder, with forward slashes.
        width: of the file as people see it, in pixels.
        height: the same.
        boxes: (n, 4) float64, x0 y0 x1 y1 in pixels of the file, within it and not empty; n may be 0.
        labels: (n,) int64, index into the classes.
        crowd: (n,) bool, boxes that stand for many objects or that need not be found.
        area: (n,) float64 of the objects in pixels: as it is annotated, else that of the box.
    """

    path: str
    width: int
    height: int
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    area: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class AnnotatedImages:
    """What a data folder says about objects in images.

    Attributes:
        name: of the data.
        root: the folder that paths are relative to.
        classes: names in the order of the labels; those without a box are left out.
        splits: "train", "val" and "test" where the data has splits, else "" alone; images by path.
        skipped: path and reason of each image that cannot be read.
        notes: sentences on what was left out or changed.
    """

    name: str
    root: Path
    classes: tuple[str, ...]
    splits: Mapping[str, tuple[AnnotatedImage, ...]]
    skipped: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


class SaidBox(NamedTuple):
    """One box as a file says it.

    Attributes:
        corners: x0 y0 x1 y1.
        label: name of the class.
        number: where it stands, for `SaidImage.place`: the id of an annotation or a line.
        crowd: whether it stands for many objects or need not be found.
        area: of the object in pixels, where the file says it.
    """

    corners: tuple[float, float, float, float]
    label: str
    number: object
    crowd: bool = False
    area: float | None = None


@dataclass(frozen=True)
class SaidImage:
    """One image as a file says it.

    Attributes:
        path: relative to the data folder.
        boxes: of its objects.
        file: that says so.
        unit: "line" or "annotation".
        size: width and height where the file says them.
    """

    path: str
    boxes: Sequence[SaidBox]
    file: str
    unit: str = "line"
    size: tuple[float, float] | None = None

    def place(self, number: object) -> str:
        """Where something stands, for messages."""
        return f"{self.unit} {number} of {self.file}"


@dataclass
class _Met:
    """What was met in all images: how often, and where first."""

    boxes: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, what: str, image: SaidImage, mask: NDArray[np.bool_]) -> None:
        if mask.any():
            self.counts[what] = self.counts.get(what, 0) + int(mask.sum())
            self.first.setdefault(what, image.place(image.boxes[int(mask.argmax())].number))

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(
            f"{counted(self.counts[what], noun, verb)} {said} ({printable(self.first[what])}{', ...' * (self.counts[what] > 1)})."
            for what, (noun, verb, said) in _SAID.items()
            if what in self.counts
        )


def gather(
    root: Path,
    classes: Sequence[str],
    splits: Mapping[str, Sequence[SaidImage]],
    *,
    are_fractions: bool = False,
    skip_broken: bool = False,
    notes: Sequence[str] = (),
) -> AnnotatedImages:
    """Check all boxes against the image files, and number the classes.

    Boxes without an area and boxes outside of their image are left out, and those that lie partly outside are clipped;
    notes count them. The size of an image is that of its file.

    Args:
        root: the data folder.
        classes: names in their order.
        splits: images by split.
        are_fractions: boxes are fractions of width and height, not pixels.
        skip_broken: leave out images that cannot be read instead of an error.
        notes: sentences that come first.

    Raises:
        DataError: a box that is not finite or of negative size, boxes that cannot be in pixels of these files, an image
            that cannot be read, or no boxes at all.
    """
    if not are_fractions:
        _check_pixels(root, splits)
    labels, met, skipped = {name: index for index, name in enumerate(classes)}, _Met(), []
    found: dict[str, tuple[AnnotatedImage, ...]] = {}
    for split, images in splits.items():
        checked = []
        _check_unique(images)
        for image in sorted(images, key=lambda image: image.path):
            try:
                size = size_of(root / image.path)
            except UnreadableImageError as error:
                if not skip_broken:
                    raise
                skipped.append((image.path, error.reason))
                continue
            checked.append(_checked(image, size, labels, are_fractions, met))
        found[split] = tuple(checked)
    if 2 * met.counts.get(_OUTSIDE, 0) > met.boxes:
        raise DataError(
            f"{printable(root)}: {met.counts[_OUTSIDE]} of {counted(met.boxes, 'object')} lie outside of their images "
            f"({printable(met.first[_OUTSIDE])}): are these the files that were annotated?"
        )
    used = {label for images in found.values() for image in images for label in image.labels.tolist()}
    if not used:
        raise DataError(f"{printable(root)} has no boxes: expected annotated objects.")
    unused = [name for index, name in enumerate(classes) if index not in used]
    told = (f"classes without an object were left out: {quoted(unused)}.",) if unused else ()
    return AnnotatedImages(
        name=root.resolve().name,
        root=root,
        classes=tuple(name for index, name in enumerate(classes) if index in used),
        splits=_renumbered(found, sorted(used)),
        skipped=tuple(dict.fromkeys(skipped)),
        notes=(*notes, *told, *met.notes),
    )


def _renumbered(
    splits: Mapping[str, tuple[AnnotatedImage, ...]], used: Sequence[int]
) -> dict[str, tuple[AnnotatedImage, ...]]:
    """With labels that count the used classes alone."""
    return {
        split: tuple(replace(image, labels=np.searchsorted(used, image.labels)) for image in images)
        for split, images in splits.items()
    }


def size_of(path: Path) -> tuple[int, int]:
    """Width and height of an image file as people see it; mostly its header is enough.

    Raises:
        UnreadableImageError: it is not an image.
    """
    if not os.path.isfile(path):  # a pipe under an image's name would block for ever
        raise UnreadableImageError(path, "there is no such file")
    try:
        height, width = upright_size(path)
    except DataError:  # Pillow does not know all formats
        height, width = read_image(path).shape[:2]
    if min(width, height) < 1:
        raise UnreadableImageError(path, "it has no pixels")
    return width, height


def _checked(
    image: SaidImage, size: tuple[int, int], labels: Mapping[str, int], are_fractions: bool, met: _Met
) -> AnnotatedImage:
    width, height = size
    if image.size is not None and image.size != size:
        met.counts[_SIZES] = met.counts.get(_SIZES, 0) + 1
        met.first.setdefault(
            _SIZES, f"{image.path}: {image.size[0]:g} x {image.size[1]:g}, the file {width} x {height}"
        )
    said = image.boxes
    corners = np.array([box.corners for box in said], dtype=np.float64).reshape(-1, 4)
    _check_corners(image, corners)
    corners = corners * np.array([width, height] * 2) if are_fractions else corners
    clipped = np.clip(corners, 0, np.array([width, height] * 2))
    is_flat = (corners[:, 2:] == corners[:, :2]).any(1)
    is_outside = ~is_flat & (clipped[:, 2:] <= clipped[:, :2]).any(1)
    kept = np.flatnonzero(~is_flat & ~is_outside).tolist()
    is_cut = (np.abs(corners - clipped) > _ROUNDING).any(1) & ~is_outside & ~is_flat
    for what, mask in ((_FLAT, is_flat), (_OUTSIDE, is_outside), (_CUT, is_cut)):
        met.add(what, image, mask)
    met.boxes += len(said)
    boxes = clipped[kept]
    sides = boxes[:, 2:] - boxes[:, :2]
    areas = [box.area if box.area is not None else math.nan for box in (said[i] for i in kept)]
    area = np.array(areas, dtype=np.float64)
    return AnnotatedImage(
        path=image.path,
        width=width,
        height=height,
        boxes=boxes,
        labels=np.array([labels[said[i].label] for i in kept], dtype=np.int64),
        crowd=np.array([said[i].crowd for i in kept], dtype=np.bool_),
        area=np.where(np.isnan(area), sides.prod(1), area),
    )


def _check_unique(images: Sequence[SaidImage]) -> None:
    seen: dict[str, str] = {}
    for image in images:
        if image.path in seen:
            where = " and ".join(dict.fromkeys((seen[image.path], image.file)))
            raise DataError(
                f"{where} {'say' if ' and ' in where else 'says'} the image {printable(image.path)} twice: keep one."
            )
        seen[image.path] = image.file


def _check_corners(image: SaidImage, corners: NDArray[np.float64]) -> None:
    for position in np.flatnonzero(~np.isfinite(corners).all(1) | (corners[:, 2:] < corners[:, :2]).any(1)).tolist():
        shown = " ".join(f"{value:g}" for value in corners[position].tolist())
        raise DataError(
            f"{image.place(image.boxes[position].number)}: the box x0 y0 x1 y1 is {shown}, expected finite numbers, x0 < x1 and "
            "y0 < y1."
        )


def _check_pixels(root: Path, splits: Mapping[str, Sequence[SaidImage]]) -> None:
    corners = [box.corners for images in splits.values() for image in images for box in image.boxes]
    if corners and all(0 <= value <= 1 for box in corners for value in box):
        raise DataError(
            f"{printable(root)}: all boxes lie between 0 and 1, expected pixels: multiply by width and height."
        )


# --- what readers share -----------------------------------------------------------------------------------------------
def read_text_file(path: Path, most: int, expected: str) -> bytes:
    """The bytes of a file of annotations.

    Args:
        path: the file.
        most: bytes that it may have.
        expected: what it should be, for messages.

    Raises:
        DataError: it is missing, no regular file, or too large.
    """
    try:
        if not os.path.isfile(path):
            raise DataError(f"there is no file {printable(path)}: expected {expected}.")
        size = path.stat().st_size
        if size > most:
            raise DataError(f"{printable(path)} has {size:,} bytes, more than the {most:,} that are read: split it.")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{printable(path)} cannot be read ({error.strerror or error}): expected {expected}.") from None


def path_within(name: object, base: str, place: str) -> str:
    """A path that a file names, relative to the data folder, with forward slashes.

    Args:
        name: as it is written.
        base: the folder in the data that it is relative to.
        place: where it is written, for messages.

    Raises:
        DataError: it is no path, or leads out of the data folder.

    >>> path_within(r"images\\a.jpg", "", "x.json"), path_within("../b.jpg", "images", "x.json")
    ('images/a.jpg', 'b.jpg')
    """
    text = name.replace("\\", "/") if isinstance(name, str) else ""
    found = posixpath.normpath(posixpath.join(base, text)) if text else ".."
    if text.startswith("/") or _DRIVE.match(text) or found.split("/")[0] == ".." or "\0" in text:
        shown = printable(name[:200]) if isinstance(name, str) else f"a {type(name).__name__}"
        raise DataError(f"{place} names the file {shown!r}: expected a path within the data folder, relative to it.")
    return found


def class_name(name: object, place: str) -> str:
    """The name of a class.

    Raises:
        DataError: it is no text, empty, or not UTF-8.
    """
    if not isinstance(name, str) or not name.strip() or not _is_encodable(name):
        shown = repr(name[:60]) if isinstance(name, str) else f"a {type(name).__name__}"
        raise DataError(f"{place}: the name of a class is {shown}, expected a text.")
    return name.strip()


def _is_encodable(text: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in text)
