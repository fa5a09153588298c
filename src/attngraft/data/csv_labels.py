"""Read a table of labelled images: a CSV file with the columns path and label."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from ..errors import DataError
from .read_image import EXTENSIONS, printable

_COLUMNS = ("path", "label")
_EXPECTED = "expected two columns, path,label"


def read_table(table: Path, *, partly: bool = False) -> tuple[list[str], list[str]]:
    """The paths as they are written, and the label of each.

    Comma-separated as in RFC 4180, in UTF-8 with or without a byte-order mark and with any line ends. A first line that
    names both columns is a header, and further columns are then ignored. Empty lines are left out.

    Args:
        table: the file.
        partly: leave out images whose label is empty as yet, instead of an error.

    Raises:
        DataError: not such a file; names the line.
    """
    rows = list(_rows(table))
    if not rows:
        raise DataError(f"{printable(table)} lists no images: {_EXPECTED}, one line for each image.")
    names = [cell.strip().lower() for cell in rows[0][1]]
    if set(_COLUMNS) <= set(names):
        path_at, label_at, width = names.index("path"), names.index("label"), len(names)
        rows = rows[1:]
    else:
        path_at, label_at, width = 0, 1, 2
        _check_first_line(table, rows[0][1])
    labels: dict[str, str] = {}
    found: list[tuple[str, str]] = []
    for line, cells in rows:
        if len(cells) != width or not cells[path_at] or not (cells[label_at] or partly):
            shown = printable(",".join(cells)[:60])
            raise DataError(f"line {line} of {printable(table)} reads {shown!r}: {_EXPECTED}, none of them empty.")
        path, label = cells[path_at], cells[label_at]
        if not label:
            continue
        if labels.setdefault(path, label) != label:
            raise DataError(
                f"{printable(table)} gives {printable(path)} two labels, {labels[path]!r} and {label!r} (line {line}): "
                "keep one."
            )
        found.append((path, label))
    return [path for path, _ in found], [label for _, label in found]


def _rows(table: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of every line that is not empty."""
    try:
        raw = table.read_bytes()
    except OSError as error:
        raise DataError(f"{printable(table)} cannot be read: {error.strerror or error}.") from None
    if b"\0" in raw:
        raise DataError(f"{printable(table)} is not a text in UTF-8: {_EXPECTED}, saved as CSV in UTF-8.")
    # names of files need not be valid UTF-8, and Python's paths carry such bytes in this way
    text = raw.decode("utf-8-sig", "surrogateescape")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for cells in reader:
            if cells:
                yield reader.line_num, cells
    except csv.Error as error:
        raise DataError(f"line {reader.line_num} of {printable(table)} is not CSV ({error}): {_EXPECTED}.") from None


def _check_first_line(table: Path, cells: list[str]) -> None:
    """A header with other names must not be taken for an image."""
    path = table.parent / cells[0]
    if len(cells) != 2 or (path.suffix.lower() not in EXTENSIONS and not path.is_file()):
        shown = printable(",".join(cells)[:60])
        raise DataError(
            f"the first line of {printable(table)} reads {shown!r}: {_EXPECTED}, "
            "with or without a header line of these names."
        )
