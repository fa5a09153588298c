"""Which column of a table of predictions is what, by the names that people use."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..data import printable
from ..errors import ConfigError, DataError, nearest
from .prediction_files import EXPECTED, PredictionTable

ROLES: Mapping[str, tuple[str, ...]] = {  # of several names that are there, the first in the list is taken
    "image": ("image", "image_id", "id", "path", "image_path", "file", "filename", "file_name", "sample", "sample_id"),
    "seed": ("seed", "run", "fold", "trial", "repeat", "replicate", "run_id"),
    "variant": ("variant", "model", "arm", "method", "attention", "network"),
    "label": ("label", "target", "y_true", "true", "truth", "ground_truth", "true_label", "gt", "class"),
    "prediction": ("prediction", "pred", "y_pred", "predicted", "predicted_label", "pred_label", "predicted_class"),
    "group": ("group", "patient", "patient_id", "slide", "video", "subject", "case"),
}
NEEDED = ("image", "seed", "variant", "label")
_PREFIXED = re.compile(r"(?:p|prob|proba|probability)[_ ](.+)", re.IGNORECASE | re.DOTALL)
SUM_TOLERANCE = 0.02  # of probabilities that were rounded


@dataclass(frozen=True)
class Taken:
    """What the columns of a table were taken for.

    Attributes:
        roles: "image", "seed", ... -> name of the column.
        classes: class -> name of the column of its probabilities; empty where there are none.
        unused: names of all other columns.
    """

    roles: Mapping[str, str]
    classes: Mapping[str, str]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        parts = [f"{role} from '{name}'" for role, name in self.roles.items()]
        if self.classes:
            names = list(self.classes.values())
            shown = ", ".join(f"'{name}'" for name in names[:4]) + (", ..." if len(names) > 4 else "")
            parts.append(f"probabilities from {shown}")
        if self.unused:
            parts.append(f"not used: {', '.join(self.unused[:5])}{', ...' if len(self.unused) > 5 else ''}")
        return "; ".join(parts)


def take_columns(table: PredictionTable, chosen: Mapping[str, str], task: str | None = None) -> Taken:
    """Guess what each column is.

    Args:
        table: the file.
        chosen: role -> name of the column, where the guess would be another.
        task: what was predicted; "regression" has no probabilities.

    Raises:
        ConfigError: a role or a column that does not exist.
        DataError: a column is missing.
    """
    for role, name in chosen.items():
        if role not in ROLES:
            raise ConfigError(f"unknown column '{role}': {nearest(role, ROLES)}")
        if name not in table.columns:
            shown = nearest(name, table.columns)
            raise ConfigError(f"{printable(table.file)} has no column '{name}' for {role}: {shown}")
    roles = dict(chosen)
    plain = {re.sub(r"[\s\-]+", "_", name.strip().lower()): name for name in reversed(list(table.columns))}
    for role, names in ROLES.items():
        found = next((plain[n] for n in names if n in plain and plain[n] not in roles.values()), None)
        if role not in roles and found is not None:
            roles[role] = found
    missing = [role for role in NEEDED if role not in roles]
    if missing:
        raise DataError(
            f"{printable(table.file)} has no column for {' and '.join(missing)} ({', '.join(list(table.columns)[:12])}): "
            f"{EXPECTED}; --columns {missing[0]}=NAME says which."
        )
    rest = [name for name in table.columns if name not in roles.values()]
    classes = {} if task == "regression" else _class_columns(rest, set(table.texts(roles["label"])))
    if not classes and "prediction" not in roles:
        raise DataError(
            f"{printable(table.file)} has neither predictions nor probabilities of its classes: {EXPECTED}."
        )
    ordered = {role: roles[role] for role in ROLES if role in roles}
    return Taken(ordered, classes, tuple(name for name in rest if name not in classes.values()))


def _class_columns(names: Sequence[str], labels: set[str]) -> dict[str, str]:
    """Class -> its column: with a prefix such as p_, or called as the classes themselves."""
    prefixed = {match.group(1).strip(): name for name in names if (match := _PREFIXED.fullmatch(name.strip()))}
    if labels & set(prefixed):
        return prefixed
    return {name: name for name in names if name in labels}


def numbers(table: PredictionTable, column: str) -> NDArray[np.float64]:
    """(N,) a column of numbers.

    Raises:
        DataError: a cell is no finite number; names the line.
    """
    cells = table.columns[column]
    try:
        values = np.asarray(cells, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        values = np.array([_number(cell) for cell in cells])
    wrong = np.flatnonzero(~np.isfinite(values))
    if wrong.size:
        row = int(wrong[0])
        raise table.error(row, f"'{column}' is {str(cells[row])[:40]!r}, expected a finite number")
    return values


def probabilities(table: PredictionTable, taken: Taken) -> NDArray[np.float32]:
    """(N, K) of the classes.

    Raises:
        DataError: cells that are no probabilities, or do not sum to 1; names the line.
    """
    found = np.empty((len(table), len(taken.classes)), dtype=np.float32)
    for index, column in enumerate(taken.classes.values()):
        values = numbers(table, column)
        wrong = np.flatnonzero((values < -1e-6) | (values > 1 + 1e-6))
        if wrong.size:
            row = int(wrong[0])
            raise table.error(row, f"'{column}' is {values[row]:g}, expected a probability from 0 to 1")
        found[:, index] = values
    sums = found.sum(1)
    wrong = np.flatnonzero(np.abs(sums - 1) > SUM_TOLERANCE)
    if wrong.size:
        row = int(wrong[0])
        raise table.error(
            row, f"the probabilities of {len(taken.classes)} classes sum to {sums[row]:.3g}, expected 1 for every image"
        )
    return found


def _number(cell: object) -> float:
    try:
        return float(cell)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return float("nan")
