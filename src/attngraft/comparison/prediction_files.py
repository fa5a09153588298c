"""Read tables of predictions that other trainers wrote: CSV, NPZ and, with pyarrow or pandas, Parquet."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data import printable
from ..data.csv_table import read_rows
from ..errors import DataError

EXPECTED = "expected columns for image, seed, variant, label, and prediction or one probability for each class"
MOST_NPZ_BYTES = 4 << 30  # unpacked
PARQUET = (".parquet", ".pq")
MATRICES = ("probabilities", "probs", "prob", "proba", "y_prob", "y_proba", "y_score", "scores")
CLASS_PREFIX = "p_"


@dataclass(frozen=True)
class PredictionTable:
    """One file as columns of equal length.

    Attributes:
        file: where it was read.
        columns: name -> N cells, texts or numbers.
        lines: number of the line that each row stands in; None where the file has no lines.
    """

    file: Path
    columns: Mapping[str, Sequence[Any] | NDArray[Any]]
    lines: Sequence[int] | None = None

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def place(self, row: int) -> str:
        """Where a row stands, for error messages."""
        where = f"row {row} (from 0)" if self.lines is None else f"line {self.lines[row]}"
        return f"{where} of {printable(self.file)}"

    def error(self, row: int, what: str) -> DataError:
        return DataError(f"{self.place(row)}: {what}.")

    def texts(self, column: str) -> list[str]:
        """The cells as texts; whole numbers without a decimal point, "" for what is missing."""
        return [_text(cell) for cell in self.columns[column]]


def read_predictions(file: Path) -> PredictionTable:
    """The columns of a file, by the end of its name.

    Raises:
        DataError: not such a file, without rows, or with columns of different lengths.
    """
    if not file.is_file():
        raise DataError(f"{printable(file)} is no file: name a CSV, NPZ or Parquet file of predictions.")
    ending = file.suffix.lower()
    found = _read_npz(file) if ending == ".npz" else _read_parquet(file) if ending in PARQUET else _read_csv(file)
    if not found.columns or not len(found):
        raise DataError(f"{printable(file)} has no predictions: {EXPECTED}.")
    return found


def _text(cell: Any) -> str:
    if isinstance(cell, bytes):
        cell = cell.decode("utf-8", "replace")
    if isinstance(cell, (float, np.floating)):
        cell = "" if np.isnan(cell) else int(cell) if float(cell).is_integer() else cell
    return "" if cell is None else str(cell).strip()


def _read_csv(file: Path) -> PredictionTable:
    rows = read_rows(file, EXPECTED)
    if not rows:
        return PredictionTable(file, {})
    names = tuple(cell.strip() for cell in rows[0].cells)
    _check_names(file, names)
    for row in rows[1:]:
        if len(row.cells) != len(names):
            raise DataError(
                f"line {row.line} of {printable(file)} has {len(row.cells)} cells: expected {len(names)}, one for each "
                "column of the first line."
            )
    columns = zip(*(row.cells for row in rows[1:]), strict=True) if rows[1:] else ((),) * len(names)
    return PredictionTable(file, dict(zip(names, columns, strict=True)), tuple(row.line for row in rows[1:]))


def _read_npz(file: Path) -> PredictionTable:
    arrays = _arrays(file)
    classes, matrix = (
        arrays.pop("classes", None),
        next((arrays.pop(m) for m in MATRICES if _is_matrix(arrays, m)), None),
    )
    lengths = {len(array) for array in arrays.values() if array.ndim == 1}
    lengths |= set() if matrix is None else {len(matrix)}
    strange = next((name for name, array in arrays.items() if array.ndim > 1), None)
    if strange is not None or len(lengths) != 1:
        what = f"{strange!r} has the shape {arrays[strange].shape}" if strange else f"they have {sorted(lengths)} rows"
        raise DataError(
            f"the arrays of {printable(file)} do not fit together ({what}): expected arrays of N, or single values, and "
            "probabilities of N x classes."
        )
    count = lengths.pop()
    columns = {name: array if array.ndim else [array.item()] * count for name, array in arrays.items()}
    if matrix is not None:
        names = list(map(_text, range(matrix.shape[1]) if classes is None else np.atleast_1d(classes).ravel()))
        if len(names) != matrix.shape[1]:
            raise DataError(
                f"{printable(file)} names {len(names)} classes for {matrix.shape[1]} columns: name each once."
            )
        added = [f"{CLASS_PREFIX}{name}" for name in names]
        _check_names(file, (*columns, *added))
        columns |= dict(zip(added, matrix.T, strict=True))
    return PredictionTable(file, columns)


def _arrays(file: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an NPZ file; nothing in it is run."""
    try:
        with zipfile.ZipFile(file) as packed:
            size = sum(entry.file_size for entry in packed.infolist())
        if size > MOST_NPZ_BYTES:
            raise ValueError(f"{size:,} bytes unpacked, more than {MOST_NPZ_BYTES:,}")
        with np.load(file, allow_pickle=False) as arrays:
            return {name: np.asarray(arrays[name]) for name in arrays.files}
    except Exception as error:  # zipfile, zlib and NumPy raise many kinds for a damaged file
        advice = "save texts with dtype=str" if "allow_pickle" in str(error) else "save it with np.savez"
        raise DataError(f"{printable(file)} cannot be read as NPZ ({error}): {advice}.") from None


def _is_matrix(arrays: Mapping[str, NDArray[Any]], name: str) -> bool:
    return name in arrays and arrays[name].ndim == 2


def _read_parquet(file: Path) -> PredictionTable:
    """With pyarrow, or else with pandas and whatever it reads Parquet with."""
    try:
        columns = _parquet_columns(file)
    except ImportError:
        raise DataError(
            f"{printable(file)} needs pyarrow or pandas, and neither is installed: pip install pyarrow, or save the "
            "predictions as CSV."
        ) from None
    except Exception as error:  # each engine has kinds of its own for a damaged file
        raise DataError(f"{printable(file)} cannot be read as Parquet ({error}): save it again, or as CSV.") from None
    _check_names(file, tuple(columns))
    return PredictionTable(file, columns)


def _parquet_columns(file: Path) -> dict[str, Sequence[Any]]:
    try:
        from pyarrow import parquet
    except ImportError:
        import pandas

        frame = pandas.read_parquet(file)
        return {str(name): frame[name].tolist() for name in frame.columns}
    table = parquet.read_table(file)
    return {str(name): column.to_pylist() for name, column in zip(table.column_names, table.columns, strict=True)}


def _check_names(file: Path, names: Sequence[str]) -> None:
    if len(set(names)) < len(names) or "" in names:
        raise DataError(f"{printable(file)} has two columns of one name, or one without a name: {EXPECTED}.")
