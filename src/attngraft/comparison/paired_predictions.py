"""Pair the predictions of several files: the same images for every variant and seed, or a sentence on what is missing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data import printable
from ..data.image_groups import COPIES, column_of, groups_by_path
from ..errors import DataError, counted
from ..tasks import Classification, Regression, Rows, Task
from ..tasks.classification import correct
from ..training import Evaluation
from .contrasts import Evaluations
from .prediction_columns import Taken, numbers, probabilities, take_columns
from .prediction_files import PredictionTable, read_predictions

_WHOLE = re.compile(r"\d{1,9}")
_DECIMAL = re.compile(r"[+-]?\d*\.\d+(e[+-]?\d+)?", re.IGNORECASE)
MOST_CELLS = 1 << 30  # predictions x classes of a file, 4 bytes each
FEWEST_SHARED = 0.5  # of the images of a run; with fewer the runs have been tested on something else
Run = tuple[str, str]  # variant and seed as they are written


@dataclass(frozen=True)
class PairedPredictions:
    """What files of predictions say.

    Attributes:
        evaluations: variant -> seed -> predictions, of the same images in the same order.
        task: what was predicted.
        groups: (N,) of the images; None where there are none.
        grouped_by: what they come from.
        left_out: runs and images that do not enter, as in `comparison.json`.
        notes: what was taken for what.
        columns: role -> name, of the first file.
        has_probabilities: whether there is more than what was predicted.
        fingerprint: of images, targets and groups.
    """

    evaluations: Evaluations
    task: Task
    groups: NDArray[Any] | None
    grouped_by: str | None
    left_out: list[dict[str, Any]]
    notes: list[str]
    columns: Mapping[str, Any]
    has_probabilities: bool
    fingerprint: str

    @property
    def ids(self) -> tuple[str, ...]:
        """Of the images."""
        return next(run.ids for runs in self.evaluations.values() for run in runs.values())


@dataclass(frozen=True)
class _Part:
    """One file with its cells as texts."""

    table: PredictionTable
    taken: Taken
    cells: Mapping[str, list[str]]


EMPTY = ("", "nan", "NaN")  # what programs write where there is no value
Place = tuple[int, int]  # number of the file and of the row


class _Index:
    """Where each image of each run stands.

    Raises:
        DataError: an empty cell, an image twice in a run, or with two labels or groups; names both lines.
    """

    def __init__(self, parts: Sequence[_Part]) -> None:
        self.parts = parts
        self.runs: dict[Run, dict[str, Place]] = {}
        self.first: dict[str, Place] = {}
        for number, part in enumerate(parts):
            for row in range(len(part.table)):
                self._add(number, row)

    def cell(self, place: Place, role: str) -> str:
        return self.parts[place[0]].cells[role][place[1]]

    def name(self, place: Place) -> str:
        return self.parts[place[0]].table.place(place[1])

    def error(self, place: Place, what: str) -> DataError:
        return self.parts[place[0]].table.error(place[1], what)

    def _add(self, number: int, row: int) -> None:
        place, cells = (number, row), self.parts[number].cells
        empty = next((role for role, values in cells.items() if values[row] in EMPTY), None)
        if empty is not None:
            raise self.error(place, f"the {empty} is empty or NaN, expected one in every row")
        image, run = cells["image"][row], (cells["variant"][row], cells["seed"][row])
        earlier = self.runs.setdefault(run, {}).setdefault(image, place)
        if earlier != place:
            where = f"variant {printable(run[0])}, seed {printable(run[1])}"
            raise self.error(place, f"{printable(image)} is there twice with {where} ({self.name(earlier)}): keep one")
        known = self.first.setdefault(image, place)
        for role in ("label", "group"):
            if role in cells and role in self.parts[known[0]].cells and self.cell(known, role) != cells[role][row]:
                shown = " and ".join(repr(printable(text)) for text in (self.cell(known, role), cells[role][row]))
                raise self.error(
                    place, f"{printable(image)} has two different {role}s, {shown} ({self.name(known)}): keep one"
                )


def pair_predictions(
    files: Sequence[Path], *, columns: Mapping[str, str], task: str | None, group_by: str | None
) -> PairedPredictions:
    """Read files and pair what they say.

    Args:
        files: CSV, NPZ or Parquet.
        columns: role -> name, where the guess would be another.
        task: "classification" or "regression"; by the labels where not given.
        group_by: "column:NAME", "folder" or a regular expression on the images' ids; a column called group or so where
            not given.

    Raises:
        ConfigError, DataError: what was given cannot be understood or paired; names the line.
    """
    if task not in (None, Classification.name, Regression.name):
        raise DataError(f"the task is '{task}': predictions of classification and regression can be compared.")
    if group_by == COPIES:
        raise DataError("group_by is 'copies', which needs the images: expected column:NAME, folder or an expression.")
    named = column_of(group_by)
    chosen = dict(columns) | ({"group": named} if named else {})
    parts = [_part(read_predictions(file), chosen, task) for file in files]
    index = _Index(parts)
    images, left_out = _shared_images(index)
    task = task or _guessed_task(parts)
    reader = _regression if task == Regression.name else _classification
    found_task, rows, notes, has_probabilities = reader(index)
    seeds, seed_notes = _seeds(index.runs)
    ids = tuple(images)
    evaluations: dict[str, dict[int, Evaluation]] = {}
    for (variant, seed), places in index.runs.items():
        picked = _picked(rows, [places[image] for image in images])
        evaluations.setdefault(variant, {})[seeds[seed]] = Evaluation(picked, ids, found_task)
    for entry in left_out:
        entry["seed"] = seeds[entry["seed"]]
    groups, grouped_by = _groups(index, ids, group_by)
    return PairedPredictions(
        evaluations={name: dict(sorted(runs.items())) for name, runs in evaluations.items()},
        task=found_task,
        groups=groups,
        grouped_by=grouped_by,
        left_out=left_out,
        notes=[*_taken_notes(parts), *seed_notes, *notes],
        columns={
            **parts[0].taken.roles,
            **({"classes": dict(parts[0].taken.classes)} if parts[0].taken.classes else {}),
        },
        has_probabilities=has_probabilities,
        fingerprint=_fingerprint(index, ids, groups),
    )


def _part(table: PredictionTable, chosen: Mapping[str, str], task: str | None) -> _Part:
    taken = take_columns(table, chosen, task)
    return _Part(table, taken, {role: table.texts(name) for role, name in taken.roles.items()})


def _shared_images(index: _Index) -> tuple[list[str], list[dict[str, Any]]]:
    """The images that every run has predicted, and what a run lacks.

    Raises:
        DataError: a run has tested other images than the rest.
    """
    most = max(map(len, index.runs.values()))
    shared = [image for image in index.first if all(image in places for places in index.runs.values())]
    left_out: list[dict[str, Any]] = []
    for (variant, seed), places in index.runs.items():
        missing = [image for image in index.first if image not in places]
        if missing:
            number = counted(len(missing), "image")
            shown = f"no prediction of {number}, such as {printable(missing[0])}: left out in all runs"
            left_out.append({"variant": variant, "seed": seed, "reason": shown})
    if len(shared) < FEWEST_SHARED * most:
        run = min(index.runs, key=lambda run: len(index.runs[run]))
        example = next(iter(index.runs[run].values()))
        raise DataError(
            f"only {len(shared):,} of {counted(len(index.first), 'image')} have a prediction in every run; the fewest, "
            f"{len(index.runs[run]):,}, have {printable(run[0])}, seed {printable(run[1])} ({index.name(example)}): expected "
            "the same test images for every variant and seed."
        )
    return shared, left_out


def _guessed_task(parts: Sequence[_Part]) -> str:
    """Regression where labels and predictions are numbers with decimals; whole numbers may be classes."""
    if any(part.taken.classes for part in parts):
        return Classification.name
    texts = [text for part in parts for role in ("label", "prediction") for text in part.cells[role]]
    decimal = any(map(_DECIMAL.fullmatch, texts)) and all(_is_number(text) for text in texts)
    return Regression.name if decimal else Classification.name


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False


Read = tuple[Task, list[Rows], list[str], bool]  # task, rows of each file, notes, whether there are probabilities


def _regression(index: _Index) -> Read:
    rows: list[Rows] = []
    for part in index.parts:
        if "prediction" not in part.taken.roles:
            raise DataError(f"{printable(part.table.file)} has no column for prediction, which regression needs.")
        target, prediction = (numbers(part.table, part.taken.roles[role])[:, None] for role in ("label", "prediction"))
        rows.append({"predictions": prediction, "targets": target})
    note = "the task is regression, by the labels; --task chooses another."
    return Regression((index.parts[0].taken.roles["label"],)), rows, [note], True


def _classification(index: _Index) -> Read:
    """One-hot rows where there are only predictions.

    Raises:
        DataError: files with other classes, or a label that is none of them; names the line.
    """
    parts = index.parts
    classes = tuple(parts[0].taken.classes)
    different = next((part for part in parts if set(part.taken.classes) != set(classes)), None)
    if different is not None:
        files = " and ".join(printable(part.table.file) for part in (parts[0], different))
        raise DataError(f"{files} have probabilities of different classes: expected the same in all files.")
    classes = tuple(sorted(classes, key=_natural)) if classes else _named_classes(parts)
    if len(classes) < 2:
        raise DataError(f"there is only one class, '{classes[0]}': expected at least two.")
    large = next((part.table for part in parts if len(part.table) * len(classes) > MOST_CELLS), None)
    if large is not None:
        raise DataError(
            f"{printable(large.file)} has {len(large):,} predictions of {len(classes):,} classes, too many to hold: are label "
            "and prediction the right columns? Else give fewer rows in a file."
        )
    number = {name: at for at, name in enumerate(classes)}
    rows: list[Rows] = []
    differing = 0
    for at, part in enumerate(parts):
        labels = _numbered(index, at, "label", number)
        if part.taken.classes:
            ordered = replace(part.taken, classes={name: part.taken.classes[name] for name in classes})
            found = probabilities(part.table, ordered)
            if "prediction" in part.cells:
                said = _numbered(index, at, "prediction", number)
                differing += int((~correct({"probabilities": found, "labels": said})).sum())
        else:
            found = np.eye(len(classes), dtype=np.float32)[_numbered(index, at, "prediction", number)]
        rows.append({"probabilities": found, "labels": labels})
    notes = []
    if differing:
        notes.append(
            f"{differing:,} predictions are not the most probable class: the probabilities count, leave them out to count "
            "the predictions."
        )
    return Classification(classes), rows, notes, bool(parts[0].taken.classes)


def _named_classes(parts: Sequence[_Part]) -> tuple[str, ...]:
    names = {text for part in parts for role in ("label", "prediction") for text in part.cells[role]}
    return tuple(sorted(names, key=_natural))


def _natural(name: str) -> tuple[bool, int, str]:
    """Whole numbers by their value, before all other names."""
    is_number = bool(_WHOLE.fullmatch(name))
    return not is_number, int(name) if is_number else 0, name


def _numbered(index: _Index, part: int, role: str, number: Mapping[str, int]) -> NDArray[np.int64]:
    cells = index.parts[part].cells[role]
    unknown = next((row for row, cell in enumerate(cells) if cell not in number), None)
    if unknown is not None:
        shown = ", ".join(list(number)[:8]) + (", ..." if len(number) > 8 else "")
        raise index.error(
            (part, unknown), f"the {role} is '{printable(cells[unknown])}', which has no probabilities ({shown})"
        )
    return np.array([number[cell] for cell in cells], dtype=np.int64)


def _picked(rows: Sequence[Rows], places: Sequence[Place]) -> Rows:
    """The rows at these places, whose files are few."""
    at = np.array(places, dtype=np.int64).reshape(-1, 2)
    found = {}
    for name in rows[0]:
        values = np.empty((len(at), *rows[0][name].shape[1:]), dtype=rows[0][name].dtype)
        for part in np.unique(at[:, 0]):
            mine = at[:, 0] == part
            values[mine] = rows[part][name][at[mine, 1]]
        found[name] = values
    return found


def _seeds(runs: Iterable[Run]) -> tuple[dict[str, int], list[str]]:
    """The number of each seed: itself, or its place among names."""
    names = sorted({seed for _, seed in runs}, key=_natural)
    if all(map(_WHOLE.fullmatch, names)) and len(set(map(int, names))) == len(names):
        return {name: int(name) for name in names}, []
    shown = ", ".join(f"{number} = {printable(name)}" for number, name in enumerate(names[:6]))
    return {name: number for number, name in enumerate(names)}, [f"the seeds are numbered: {shown}."]


def _groups(index: _Index, ids: Sequence[str], group_by: str | None) -> tuple[NDArray[Any] | None, str | None]:
    places = [index.first[image] for image in ids]
    if group_by is not None and column_of(group_by) is None:
        labels = [index.cell(place, "label") for place in places]
        return np.array(groups_by_path(ids, labels, group_by)), group_by
    if not all("group" in part.cells for part in index.parts):
        return None, None
    return np.array([index.cell(place, "group") for place in places]), f"column:{index.parts[0].taken.roles['group']}"


def _taken_notes(parts: Sequence[_Part]) -> list[str]:
    """What the columns were taken for, once for all files that agree."""
    said: dict[str, list[str]] = {}
    for part in parts:
        said.setdefault(str(part.taken), []).append(part.table.file.name)
    if len(said) == 1:
        return [f"taken: {next(iter(said))}."]
    return [
        f"taken in {', '.join(files[:4])}{', ...' if len(files) > 4 else ''}: {what}." for what, files in said.items()
    ]


def _fingerprint(index: _Index, ids: Sequence[str], groups: NDArray[Any] | None) -> str:
    digest = blake2b(digest_size=16)
    for position, image in enumerate(ids):
        row = (image, index.cell(index.first[image], "label"), "" if groups is None else str(groups[position]))
        digest.update("\0".join(row).encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()
