"""Data sets from CSV files: classes, several labels or numbers per image."""

from __future__ import annotations

import math
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import DataError, counted, nearest
from .class_names import quoted
from .csv_table import Row, is_utf8, read_rows
from .read_image import EXTENSIONS, printable
from .split_names import split_of
from .targets import ClassLabels, LabelSets, Targets, Values

TASKS = ("classification", "multilabel", "regression")
_LARGEST = float(np.finfo(np.float32).max)  # what a batch can hold
_EXPECTED = "expected two columns, path,label"
_LAYOUT = "expected the columns path,label or path,labels (with | between labels) or path and numeric targets"


@dataclass(frozen=True)
class ImageTable:
    """What one or several CSV files say about images.

    Attributes:
        names: of the classes, labels or targets.
        paths: as they are written; relative to the folder of the files.
        splits: "train", "val" or "test" per image, or "" where the files have no splits.
        places: "line 3 of labels.csv" per image, for error messages.
        groups: the cell of the column of groups per image; None where no column is named.
    """

    names: tuple[str, ...]
    paths: tuple[str, ...]
    splits: tuple[str, ...]
    targets: Targets
    places: tuple[str, ...]
    notes: tuple[str, ...] = ()
    groups: tuple[str, ...] | None = None


@dataclass(frozen=True)
class _Lines:
    """The lines of one file, as columns by name."""

    file: Path
    columns: tuple[str, ...]
    rows: Sequence[Row]

    def cells(self, column: str) -> list[str]:
        at = self.columns.index(column)
        return [row.cells[at] for row in self.rows]

    def place(self, row: Row) -> str:
        return f"line {row.line} of {printable(self.file)}"

    def error(self, row: Row, what: str) -> DataError:
        return DataError(f"{self.place(row)}: {what}.")


def read_labels(table: Path, *, partly: bool = False) -> tuple[list[str], list[str], list[str]]:
    """The paths as they are written, the label of each, and where it stands: "line 3 of labels.csv".

    A first line that names both columns is a header, and further columns are then ignored.

    Args:
        table: the file.
        partly: leave out images whose label is empty as yet, instead of an error.

    Raises:
        DataError: not such a file; names the line.
    """
    lines = _read(table, "classification", _EXPECTED, strictly=("path", "label"))
    labels: dict[str, str] = {}
    found: list[tuple[str, str, str]] = []
    for row, path, label in zip(lines.rows, lines.cells("path"), lines.cells("label"), strict=True):
        if not path or not (label or partly):
            raise DataError(f"{lines.place(row)} reads {row}: {_EXPECTED}, none of them empty.")
        if not label:
            continue
        if labels.setdefault(path, label) != label:
            raise DataError(
                f"{printable(table)} gives {printable(path)} two labels, {labels[path]!r} and {label!r} (line {row.line}): "
                "keep one."
            )
        found.append((path, label, lines.place(row)))
    paths, names, places = ([entry[column] for entry in found] for column in range(3))
    return paths, names, places


def read_paths(table: Path) -> list[Path]:
    """The files that a CSV file lists: its column path, or the first where no column is called so.

    Raises:
        DataError: not such a file, or one without lines; names the line.
    """
    expected = "expected a column of paths, relative to the file"
    rows = read_rows(table, expected)
    names = _columns(rows[0].cells) if rows else ()
    is_headed = bool(rows) and ("path" in names or Path(rows[0].cells[0]).suffix.lower() not in EXTENSIONS)
    at = names.index("path") if "path" in names else 0
    listed = rows[is_headed:]
    if not listed:
        raise DataError(f"{printable(table)} lists no images: {expected}.")
    short = next((row for row in listed if len(row.cells) <= at or not row.cells[at]), None)
    if short is not None:
        raise DataError(f"line {short.line} of {printable(table)} reads {short}: {expected}.")
    return [table.parent / row.cells[at] for row in listed]


def read_groups(table: Path, column: str) -> dict[str, str]:
    """What a column beside path and label says of each path; it may be empty.

    Raises:
        DataError: no such column.
    """
    lines = _read(table, "classification", _EXPECTED, strictly=("path", "label"))
    if column not in lines.columns:
        raise _no_column(lines, column)
    return dict(zip(lines.cells("path"), lines.cells(column), strict=True))


def _no_column(lines: _Lines, column: str) -> DataError:
    shown = nearest(column, lines.columns)
    return DataError(f"{printable(lines.file)} has no column {column!r} to group images by: {shown}")


def read_image_table(files: Mapping[str, Path], task: str | None = None, group_column: str | None = None) -> ImageTable:
    """Images, their splits and their targets.

    Args:
        files: by split; the key "" for one file that may have a column called split.
        task: "classification", "multilabel" or "regression"; from the names of the columns where not given.
        group_column: the column that says which images belong together; it is no target.

    Raises:
        DataError: what a file says cannot be understood; names the line.
    """
    if task not in (None, *TASKS):
        raise DataError(f"no data for the task '{task}' can be read from a CSV file: {nearest(str(task), TASKS)}")
    parts = {split: _read(file, task, _LAYOUT) for split, file in files.items()}
    first = next(iter(parts.values()))
    for part in parts.values():
        if part.columns != first.columns:
            raise DataError(
                f"{printable(part.file)} has the columns {','.join(part.columns)} and {printable(first.file)} "
                f"{','.join(first.columns)}: expected the same in both."
            )
    if group_column is not None and group_column not in first.columns:
        raise _no_column(first, group_column)
    task, columns, notes = _chosen_columns(first, task, group_column)
    if not any(part.rows for part in parts.values()):
        raise DataError(f"{printable(first.file)} lists no images: expected one line for each.")
    kept = _without_repeats({split: _with_splits(part, split) for split, part in parts.items()}, columns)
    if len(kept) < sum(len(part.rows) for part in parts.values()):
        notes.append(
            f"{counted(sum(len(part.rows) for part in parts.values()) - len(kept), 'line', 'repeat')} earlier ones."
        )
    names, targets = _READERS[task](kept, columns)
    return ImageTable(
        names=names,
        paths=tuple(line.path for line in kept),
        splits=tuple(line.split for line in kept),
        targets=targets,
        places=tuple(line.part.place(line.row) for line in kept),
        notes=tuple(notes),
        groups=None if group_column is None else tuple(_group(line, group_column) for line in kept),
    )


@dataclass(frozen=True)
class _Line:
    """One image: where it stands, its path, its split and its row."""

    part: _Lines
    row: Row
    path: str
    split: str

    def cell(self, column: str) -> str:
        found = self.row.cells[self.part.columns.index(column)].strip()
        if not is_utf8(found):
            raise self.error(
                f"{printable(column)} is {printable(found)}, which is not UTF-8: save the file as CSV UTF-8"
            )
        return found

    def error(self, what: str) -> DataError:
        return self.part.error(self.row, what)


def _read(table: Path, task: str | None, expected: str, strictly: tuple[str, ...] = ("path",)) -> _Lines:
    """The columns of a file, with or without a header.

    Raises:
        DataError: no such columns, or a line that is shorter or longer than the first; names the line.
    """
    rows = read_rows(table, expected)
    if not rows:
        raise DataError(f"{printable(table)} lists no images: {expected}, one line for each image.")
    names = _columns(rows[0].cells)
    if set(strictly) <= set(names):
        columns, rows = names, rows[1:]
        if len(set(columns)) < len(columns) or "" in columns:
            raise DataError(f"the header of {printable(table)} has two columns of one name, or one without a name.")
        if not is_utf8("".join(columns)):
            raise DataError(f"the header of {printable(table)} is not UTF-8: save the file as CSV UTF-8.")
    else:
        _check_no_header(table, rows[0], expected)
        columns = ("path", {"multilabel": "labels", "regression": "target"}.get(task or "", "label"))
    for row in rows:
        if len(row.cells) != len(columns):
            shown = f"{len(columns)} columns, {','.join(columns)}"
            raise DataError(f"line {row.line} of {printable(table)} reads {row}: expected {shown}.")
    return _Lines(table, columns, rows)


def _check_no_header(table: Path, first: Row, expected: str) -> None:
    """A header with other names must not be taken for an image."""
    path = table.parent / first.cells[0]
    if len(first.cells) != 2 or (path.suffix.lower() not in EXTENSIONS and not path.is_file()):
        raise DataError(f"the first line of {printable(table)} reads {first}: {expected}.")


def _columns(cells: Sequence[str]) -> tuple[str, ...]:
    """The names of columns; where none is called path, the one called image is that, as in what `predict` writes."""
    names = tuple(map(_column, cells))
    lowered = [name.lower() for name in names]
    if "path" in names or lowered.count("image") != 1:
        return names
    return tuple("path" if low == "image" else name for name, low in zip(names, lowered, strict=True))


def _column(cell: str) -> str:
    """The name of a column; those with a meaning may be written in capitals."""
    name = cell.strip()
    return name.lower() if name.lower() in ("path", "split", "label", "labels") else name


def is_image_table(file: Path) -> bool:
    """Whether the first line of a CSV file names a column of paths or an image."""
    try:
        first = read_rows(file, _LAYOUT)[:1]
    except DataError:
        return False
    cells = first[0].cells if first else ("",)
    return "path" in _columns(cells) or Path(cells[0]).suffix.lower() in EXTENSIONS


def _group(line: _Line, column: str) -> str:
    cell = line.cell(column)
    if not cell:
        raise line.error(f"{column} is empty, expected the group of the image")
    return cell


def _chosen_columns(
    lines: _Lines, task: str | None, group_column: str | None
) -> tuple[str, tuple[str, ...], list[str]]:
    """The task, the columns of its targets, and notes on both."""
    others = tuple(name for name in lines.columns if name not in ("path", "split", group_column))
    if not others:
        raise DataError(f"{printable(lines.file)} has nothing to learn: {_LAYOUT}.")
    named = [name for name in ("label", "labels") if name in others]
    inferred = {"label": "classification", "labels": "multilabel"}[named[0]] if named else "regression"
    if task is None and len(named) > 1:
        raise DataError(f"{printable(lines.file)} has both a column label and a column labels: choose one with --task.")
    chosen = task or inferred
    if chosen == "regression":
        columns = others
    else:
        preferred = sorted(named, reverse=chosen == "multilabel")
        columns = tuple(preferred[:1] or others)
        if len(columns) > 1:
            raise DataError(
                f"{printable(lines.file)} has the columns {', '.join(columns)}: call the one with the "
                f"{'classes label' if chosen == 'classification' else 'labels labels'}."
            )
    notes = []
    if task is None:
        said = f"column {columns[0]}" if len(columns) == 1 else f"columns {', '.join(columns[:5])}"
        notes.append(f"the task is {chosen}, by the {said} of {lines.file.name}; --task chooses another.")
    unused = [name for name in others if name not in columns]
    if unused:
        notes.append(f"columns that are not used: {quoted(unused)}.")
    return chosen, columns, notes


def _with_splits(lines: _Lines, split: str) -> list[_Line]:
    """The images of one file with the split of each.

    Raises:
        DataError: a split that has no meaning, or an empty path; names the line.
    """
    paths = lines.cells("path")
    if split or "split" not in lines.columns:
        splits = [split] * len(paths)
    else:
        splits = [split_of(cell.strip()) or "?" for cell in lines.cells("split")]
    for row, path, found in zip(lines.rows, paths, splits, strict=True):
        if not path:
            raise lines.error(row, "the path is empty, expected that of an image")
        if found == "?":
            cell = row.cells[lines.columns.index("split")]
            raise lines.error(row, f"the split is {cell!r}, expected train, val or test")
    return [_Line(lines, row, path, found) for row, path, found in zip(lines.rows, paths, splits, strict=True)]


def _without_repeats(parts: Mapping[str, Sequence[_Line]], columns: Sequence[str]) -> list[_Line]:
    """Every image once in each split.

    Raises:
        DataError: an image has two different targets; names both lines.
    """
    first: dict[str, _Line] = {}
    kept: dict[tuple[str, str], _Line] = {}
    for line in (line for part in parts.values() for line in part):
        path = posixpath.normpath(line.path)
        earlier = first.setdefault(path, line)
        if [line.cell(name) for name in columns] != [earlier.cell(name) for name in columns]:
            shown = " and ".join(repr(",".join(one.cell(name) for name in columns)) for one in (earlier, line))
            what = "labels" if columns[0] in ("label", "labels") else "targets"
            raise line.error(
                f"{printable(line.path)} has two different {what}, {shown} ({earlier.part.place(earlier.row)}): keep one"
            )
        kept.setdefault((line.split, path), line)
    return list(kept.values())


def _classes(lines: Sequence[_Line], columns: Sequence[str]) -> tuple[tuple[str, ...], Targets]:
    cells = [line.cell(columns[0]) for line in lines]
    empty = next((line for line, cell in zip(lines, cells, strict=True) if not cell), None)
    if empty is not None:
        raise empty.error(f"{'the label' if columns[0] == 'label' else columns[0]} is empty, expected a class")
    names = sorted(set(cells))
    if len(names) < 2:
        raise DataError(
            f"{printable(lines[0].part.file)} has only one class, {names[0]!r}: classification needs at least two."
        )
    return tuple(names), ClassLabels.named(cells, names)


def _label_sets(lines: Sequence[_Line], columns: Sequence[str]) -> tuple[tuple[str, ...], Targets]:
    sets = [_labels_in(line, line.cell(columns[0])) for line in lines]
    names = sorted({name for found in sets for name in found})
    if not names:
        raise DataError(f"no image in {printable(lines[0].part.file)} has a label: {_LAYOUT}.")
    number = {name: index for index, name in enumerate(names)}
    table = np.zeros((len(lines), len(names)), dtype=np.uint8)
    for row, found in enumerate(sets):
        table[row, [number[name] for name in found]] = 1
    return tuple(names), LabelSets(table)


def _labels_in(line: _Line, cell: str) -> list[str]:
    """The labels between the bars; none in an empty cell."""
    found = [name.strip() for name in cell.split("|")] if cell else []
    if "" in found:
        raise line.error(f"the labels are {cell!r}, expected a name on each side of every |")
    return found


def _values(lines: Sequence[_Line], columns: Sequence[str]) -> tuple[tuple[str, ...], Targets]:
    return tuple(columns), Values(np.array([[_number(line, name) for name in columns] for line in lines]))


def _number(line: _Line, column: str) -> float:
    cell = line.cell(column)
    try:
        value = float("" if "_" in cell else cell)
    except ValueError:
        raise line.error(
            f"{column} is {cell!r}, expected a number; a column of classes is called label, one of several labels labels"
        ) from None
    if not math.isfinite(value):
        raise line.error(f"{column} is {cell!r}, expected a finite number")
    if abs(value) > _LARGEST:
        raise line.error(f"{column} is {cell!r}, expected a number between -3.4e38 and 3.4e38")
    return value


_READERS = {"classification": _classes, "multilabel": _label_sets, "regression": _values}
