"""Bounding boxes of objects, from a data set or a CSV file."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..config import Preprocessing
from ..errors import DataError, counted
from .csv_table import Row, read_rows
from .dataset import ImageSet
from .geometry import boxes_in_input
from .read_image import EXTENSIONS, pillow_warnings_ignored, printable

COLUMNS = ("image", "x0", "y0", "x1", "y1")
_TURNED = frozenset({5, 6, 7, 8})  # EXIF orientations that swap width and height
_ORIENTATION = 0x0112

Boxes = tuple[NDArray[np.float64], ...]
"""For each image its boxes (K, 4), x0 y0 x1 y1 in pixels, ends excluded; K is 0 where none is known."""


def own_boxes(images: ImageSet) -> Boxes | None:
    """The boxes that the data set brings along, in pixels of the stored images; None where it has none."""
    if images.boxes is None:
        return None
    rows = np.asarray(images.boxes, dtype=np.float64)
    return tuple(row[None][np.isfinite(row[None]).all(1)] for row in rows)


def read_boxes(path: str | Path, images: ImageSet, folder: Path | None = None) -> Boxes:
    """Boxes from a CSV file with the columns image, x0, y0, x1, y1, in pixels of the image files as people see them.

    A row's image is the id of an image, or so much of its end that it is the only one (or the other way round).
    Rows on other images are passed over; an image may have several rows. Coordinates are scaled to the stored image,
    which may be smaller than its file.

    Args:
        path: the CSV file.
        images: the images to find boxes for.
        folder: what their ids are relative to; None where these are paths, or names of images without files.

    Raises:
        DataError: the file cannot be read, lacks a column, has a row that is no box, or is about other images; or
            the size of an image file cannot be found out.
    """
    named = _read_rows(Path(path))
    positions = _positions(named, images.ids, Path(path))
    found: dict[int, list[tuple[float, ...]]] = defaultdict(list)
    for name, position in positions.items():
        found[position] += named[name]
    return tuple(
        _in_stored(found[position], images, position, folder) if position in found else np.empty((0, 4))
        for position in range(len(images))
    )


def input_boxes(boxes: Boxes, images: ImageSet, preprocessing: Preprocessing) -> Boxes:
    """The same boxes in pixels of the inputs; what lies outside of an input is left out."""
    shapes = images.store.shapes[images.rows]
    found = []
    for mine, shape in zip(boxes, shapes, strict=True):
        moved = boxes_in_input(mine, np.tile(shape, (len(mine), 1)), preprocessing)
        found.append(moved[np.isfinite(moved).all(1)])
    return tuple(found)


def upright_size(path: str | Path) -> tuple[int, int]:
    """Height and width of an image file as `read_image` would return it; only its header is read.

    Raises:
        DataError: it is not an image.
    """
    try:
        with pillow_warnings_ignored(), Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(_ORIENTATION) in _TURNED
    except Exception as error:  # damaged files make Pillow raise almost anything
        raise DataError(f"the size of {printable(path)} cannot be read ({type(error).__name__}): mend it.") from None
    return (width, height) if turned else (height, width)


def _read_rows(path: Path) -> dict[str, list[tuple[float, ...]]]:
    """Image name as written, with forward slashes -> its boxes."""
    expected = f"expected the columns {', '.join(COLUMNS)}"
    header, *rows = read_rows(path, expected, skip_spaces=True) or [Row(1, ())]
    columns = [cell.strip() for cell in header.cells]
    missing = [name for name in COLUMNS if name not in columns]
    if missing:
        raise DataError(f"{printable(path)} has no column {missing[0]!r}: {expected}.")
    image_at, *places = (columns.index(name) for name in COLUMNS)
    named: dict[str, list[tuple[float, ...]]] = defaultdict(list)
    for row in rows:
        where = f"line {row.line} of {printable(path)}"
        if len(row.cells) < len(columns):
            raise DataError(f"{where} reads {row}: expected {len(columns)} columns.")
        named[_posix(row.cells[image_at])].append(_box([row.cells[at] for at in places], where))
    _check_pixels([box for boxes in named.values() for box in boxes], path)
    return dict(named)


def _box(cells: Sequence[str], where: str) -> tuple[float, ...]:
    values = []
    for name, cell in zip(COLUMNS[1:], cells, strict=True):
        try:
            value = float(cell)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise DataError(f"{where}: {name} is {cell!r}, expected a number of pixels.")
        values.append(value)
    x0, y0, x1, y1 = values
    if x1 <= x0 or y1 <= y0:
        raise DataError(f"{where}: the box {x0:g} {y0:g} {x1:g} {y1:g} is empty, expected x0 < x1 and y0 < y1.")
    return x0, y0, x1, y1


def _check_pixels(boxes: Sequence[tuple[float, ...]], path: Path) -> None:
    if boxes and np.asarray(boxes).min() >= 0 and np.asarray(boxes).max() <= 1:
        raise DataError(
            f"{printable(path)}: all numbers lie between 0 and 1, expected pixels: multiply by width and height."
        )


def _positions(names: Iterable[str], ids: Sequence[str], path: Path) -> dict[str, int]:
    """Which image each name of the file is about; names of other images are left out."""
    exact = {_posix(image_id): position for position, image_id in enumerate(ids)}
    longer: dict[str, list[int]] = defaultdict(list)
    for image_id, position in exact.items():
        for end in _ends(image_id):
            longer[end].append(position)
    found: dict[str, int] = {}
    said: dict[int, str] = {}
    for name in names:
        matched = _position(name, exact, longer, ids, path)
        if matched is None:
            continue
        if said.setdefault(matched, name) != name:
            shown = f"{printable(said[matched])} and {printable(name)}"
            raise DataError(
                f"{printable(path)}: {shown} both seem to be {printable(ids[matched])}: write one name for one image."
            )
        found[name] = matched
    if not found:
        example = printable(ids[0]) if ids else "none"
        raise DataError(
            f"{printable(path)} names none of the {counted(len(ids), 'image')}: expected names such as {example}."
        )
    return found


def _position(
    name: str, exact: Mapping[str, int], longer: Mapping[str, Sequence[int]], ids: Sequence[str], path: Path
) -> int | None:
    if name in exact:
        return exact[name]
    shorter = next((exact[end] for end in _ends(name) if end in exact), None)
    candidates = longer.get(name, ()) if shorter is None else (shorter,)
    if len(candidates) > 1:
        shown = ", ".join(printable(ids[position]) for position in candidates[:2])
        raise DataError(
            f"{printable(path)}: {printable(name)} may be any of {counted(len(candidates), 'image')} ({shown}): name its folder."
        )
    return candidates[0] if candidates else None


def _posix(name: str) -> str:
    """With forward slashes, without a leading "./"."""
    return str(PurePosixPath(name.strip().replace("\\", "/")))


def _ends(name: str) -> list[str]:
    """What is left of a path without its first 1, 2, ... folders, longest first.

    >>> _ends("a/b/c.jpg")
    ['b/c.jpg', 'c.jpg']
    """
    parts = PurePosixPath(name).parts
    return ["/".join(parts[start:]) for start in range(1, len(parts))]


def _in_stored(
    boxes: Sequence[tuple[float, ...]], images: ImageSet, position: int, folder: Path | None
) -> NDArray[np.float64]:
    """From pixels of the file to pixels of the stored image."""
    image_id, given = images.ids[position], np.asarray(boxes, dtype=np.float64)
    height, width = images.store.shapes[images.rows[position]].tolist()
    file = (folder or Path()) / image_id
    if not file.is_file():
        if file.suffix.lower() in EXTENSIONS:
            raise DataError(
                f"there is no file {printable(file)}: boxes are in pixels of the image file, so its size is needed."
            )
        return given  # an image of a built-in source is its own original
    file_height, file_width = upright_size(file)
    return given * np.array([width / file_width, height / file_height] * 2)
