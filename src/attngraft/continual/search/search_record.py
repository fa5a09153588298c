"""The record of a search, `iterate.json`: the whole state, rewritten after every event."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...config import ADDED, Preprocessing, from_dict, to_dict
from ...environment import hardware, versions
from ...errors import ConfigError, RunError
from ...files import read_json, write_json
from ...settings.recipe import completed_recipe
from ...surgery.own_networks import check_unchanged
from ...surgery.serialization import MODEL_FILE
from ...timestamp import timestamp
from ...training import DataRecord, Precision
from .requirement import Quantity

ITERATION_FILE = "iterate.json"
ITERATION_FORMAT = 1
LOCK_FILE = "lock"

# what must be equal for a search to be continued
IDENTITY = (
    "until", "budget_s", "trials_asked", "seeds", "seed", "backbone", "pretrained", "weights", "space", "preprocessing",
    "group_by",
)  # fmt: skip


@dataclass
class Trial:
    """One trial.

    Attributes:
        number: 1 for the first.
        run: its run folder, below that of the search.
        begun_s: on the clock of the search.
        status: "running", "finished", "pruned", "cut", "failed" or "infeasible".
        curve: one number per epoch, higher is better.
        stop: why it is being stopped early: "pruned" or "cut".
        measured: on the validation images.
        score: by which trials are ranked.
        reason: why it failed or is infeasible.
    """

    number: int
    variant: str
    recipe: str
    params: Mapping[str, Any]
    run: str
    begun_s: float
    status: str = "running"
    time_s: float | None = None
    costs: Mapping[str, float] | None = None
    curve: tuple[float, ...] = ()
    stop: str | None = None
    measured: Mapping[str, Any] | None = None
    score: float | None = None
    reason: str | None = None

    @property
    def is_running(self) -> bool:
        return self.status == "running"

    @property
    def seconds_per_epoch(self) -> float:
        """Evaluation included; 0 where nothing was trained."""
        return self.time_s / len(self.curve) if self.curve and self.time_s else 0.0


@dataclass
class FinalistRun:
    """One seed of the finalist; its status is "waiting", "trained" or "failed"."""

    seed: int
    run: str
    status: str = "waiting"
    reason: str | None = None
    sha256: str | None = None
    measured: Mapping[str, float] | None = None

    @property
    def is_trained(self) -> bool:
        return self.status == "trained"


@dataclass
class Finalist:
    """The best trial, trained anew; its status is "training", "testing" or "tested"."""

    trial: int
    variant: str
    recipe: str
    params: Mapping[str, Any]
    runs: tuple[FinalistRun, ...]
    status: str = "training"

    @property
    def trained(self) -> list[FinalistRun]:
        return [run for run in self.runs if run.is_trained]


@dataclass(frozen=True)
class ClauseRecord:
    """A clause of the requirement, and what was measured on the test images."""

    metric: str
    operator: str
    number: float
    value: float | None = None
    low: float | None = None
    high: float | None = None
    met: bool | None = None


@dataclass
class SearchRecord:
    """The content of `iterate.json`.

    The first entries say what was asked for; the others are filled in as the search proceeds. `quantities` describes
    the metrics and costs by name, `group_by` what makes images belong together.
    """

    until: str
    clauses: tuple[ClauseRecord, ...]
    budget_s: float
    trials_asked: int | None
    seeds: int
    seed: int
    backbone: str
    pretrained: bool
    weights: str | None
    space: Mapping[str, Any]
    preprocessing: Preprocessing
    data: DataRecord
    quantities: Mapping[str, Any] = field(default_factory=dict)
    group_by: str | None = field(default=None, metadata=ADDED)
    created: str = field(default_factory=timestamp)
    status: str = "searching"
    command: str | None = None
    precision: Precision | None = None
    trials: tuple[Trial, ...] = ()
    search_ended: str | None = None
    search_s: float | None = None
    finalist: Finalist | None = None
    verdict: str | None = None
    sentence: str | None = None
    measured: Mapping[str, Any] | None = None
    costs: Mapping[str, float] | None = None
    finished: str | None = None
    primary: str | None = None
    best_so_far: tuple[float | None, ...] = ()
    importances: Mapping[str, float] = field(default_factory=dict)
    used_s: float | None = None
    notes: tuple[str, ...] = ()
    hardware: Mapping[str, Any] = field(default_factory=hardware)
    versions: Mapping[str, Any] = field(default_factory=versions)
    format: int = ITERATION_FORMAT
    kind: str = "iteration"

    @property
    def ended(self) -> list[Trial]:
        return [trial for trial in self.trials if not trial.is_running]


@dataclass
class Iteration:
    """A search on disk and its outcome; every change of its record is followed by `write`.

    Attributes:
        run_dir: its folder.
        record: the content of `iterate.json`.
    """

    run_dir: Path
    record: SearchRecord

    @property
    def document(self) -> Mapping[str, Any]:
        """The record as plain JSON values."""
        return to_dict(self.record)

    @property
    def is_met(self) -> bool:
        return self.verdict == "met"

    @property
    def verdict(self) -> str:
        """ "met" or "not met"."""
        return str(self.record.verdict)

    @property
    def sentence(self) -> str:
        return str(self.record.sentence)

    @property
    def model(self) -> Path | None:
        """The finalist's model of the first seed; None where nothing could be trained."""
        path = self.run_dir / MODEL_FILE
        return path if path.is_file() else None

    @property
    def primary(self) -> Quantity:
        """The metric by which trials are shown."""
        name = self.record.primary or "top1"
        return Quantity(name, **self.record.quantities.get(name, {"label": name}))

    def to_json(self) -> str:
        return json.dumps(self.document, indent=1, ensure_ascii=False)

    def __str__(self) -> str:
        return "\n".join([self.sentence, *self.record.notes])

    def write(self) -> None:
        """Write the record whole.

        Raises:
            RunError: the disk is full; the one before is still there.
        """
        write_json(self.run_dir / ITERATION_FILE, self.document)

    def run_of(self, part: Trial | FinalistRun) -> Path:
        """The run folder of a trial or of a run of the finalist."""
        return self.run_dir / part.run


def check_folder(folder: Path) -> None:
    """Raise RunError where the folder holds something else than a search."""
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file: choose a folder for the search.")
    if not folder.is_dir() or (folder / ITERATION_FILE).is_file():
        return
    if any(not _is_leftover(item) for item in folder.iterdir()):
        raise RunError(f"{folder} has files but no {ITERATION_FILE}: choose an empty or a new folder.")


def open_search(folder: Path, wanted: SearchRecord) -> Iteration:
    """Begin a search or return to it.

    Args:
        folder: checked, and locked by this process.
        wanted: what is asked for.

    Raises:
        RunError: the folder belongs to another search; nothing was changed.
    """
    if not (folder / ITERATION_FILE).is_file():
        return Iteration(folder, wanted)
    found = _read(folder)
    if found.data.fingerprint != wanted.data.fingerprint:
        raise RunError(f"the search in {folder} was begun with other images: choose a new folder; nothing was changed.")
    check_unchanged(found.backbone, wanted.backbone, f"the search in {folder}")
    for name in IDENTITY:
        old, new = getattr(found, name), getattr(wanted, name)
        if name == "space":
            old = _completed(old)
        if old != new:
            kind = name.removesuffix("_s").removesuffix("_asked")
            values = f" ({old} there, {new} asked for)" if isinstance(old, (str, int, float)) else ""
            raise RunError(
                f"the search in {folder} was begun with another {kind}{values}: choose a new folder, and new test images "
                "if its test was made; nothing was changed."
            )
    return Iteration(folder, found)


def _read(folder: Path) -> SearchRecord:
    path = folder / ITERATION_FILE
    values = read_json(path)
    if not isinstance(values, dict) or values.get("kind") != "iteration":
        raise RunError(f"{path} is not a search: choose another folder.")
    if values.get("format") != ITERATION_FORMAT:
        raise RunError(
            f"{folder} has format {values.get('format')!r}, this version reads {ITERATION_FORMAT}: update attngraft."
        )
    try:
        return from_dict(SearchRecord, values, where="search")
    except ConfigError as error:
        raise RunError(f"{path} is damaged ({error}): restore it from a copy or choose a new folder.") from None


def _completed(space: Mapping[str, Any]) -> Mapping[str, Any]:
    """A space whose recipes an earlier version wrote, with the fields that it did not know."""
    recipes = space.get("recipes")
    if not isinstance(recipes, dict):
        return space
    return {**space, "recipes": {name: completed_recipe(recipe) for name, recipe in recipes.items()}}


def _is_leftover(item: Path) -> bool:
    """The lock, and what a process that was killed while it wrote the first file has left behind."""
    return item.name in (LOCK_FILE, f"{LOCK_FILE}.holder") or item.name.startswith(f".{ITERATION_FILE}.")
