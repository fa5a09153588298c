"""Read CSV files: lists of images, data sets and boxes."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError
from .read_image import printable

MOST_BYTES = 1 << 30
_SHOWN = 60
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}


@dataclass(frozen=True)
class Row:
    """One line that is not empty: its number in the file, and its cells."""

    line: int
    cells: tuple[str, ...]

    def __str__(self) -> str:
        return repr(printable(",".join(self.cells)[:_SHOWN]))


def read_rows(path: Path, expected: str, *, skip_spaces: bool = False) -> list[Row]:
    """The lines of a CSV file.

    Comma-separated as in RFC 4180, in UTF-8 with or without a byte-order mark and with any line ends; empty
    lines are left out.

    Args:
        path: the file.
        expected: what it should be, for error messages: "expected two columns, path,label".
        skip_spaces: ignore spaces after a comma.

    Raises:
        DataError: not such a file; names the line.
    """
    text = _text(path, expected)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=skip_spaces)
    rows = []
    try:
        for cells in reader:
            if cells:
                rows.append(Row(reader.line_num, tuple(cells)))
    except csv.Error as error:
        raise DataError(f"line {reader.line_num} of {printable(path)} is not CSV ({error}): {expected}.") from None
    if rows:
        _check_separator(rows[0], path)
    return rows


def _text(path: Path, expected: str) -> str:
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise DataError(f"{printable(path)} has {size:,} bytes, more than {MOST_BYTES:,}: split it.")
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{printable(path)} cannot be read ({error.strerror or error}): {expected}.") from None
    if b"\0" in raw:
        raise DataError(f"{printable(path)} is not a text in UTF-8: {expected}, saved as CSV in UTF-8.")
    # names of files need not be valid UTF-8, and Python's paths carry such bytes in this way
    return raw.decode("utf-8-sig", "surrogateescape")


def is_utf8(text: str) -> bool:
    r"""Whether a text was UTF-8 in the file.

    >>> is_utf8("né"), is_utf8("n\udce9")
    (True, False)
    """
    return text.isascii() or not any("\udc80" <= letter <= "\udcff" for letter in text)


def _check_separator(first: Row, path: Path) -> None:
    if len(first.cells) > 1:
        return
    for mark, name in _SEPARATORS.items():
        if mark in first.cells[0]:
            raise DataError(
                f"the first line of {printable(path)} reads {first}, separated by {name}: expected commas, so save it as "
                "comma-separated values (CSV UTF-8)."
            )
