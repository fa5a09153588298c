"""The run folder: the whole truth of one run, readable without this library.

`run.json` (what was done), `metrics.jsonl` (one row per epoch), `model.safetensors`, `predictions.safetensors`, and
`checkpoints/` while the run is not finished. Each notices when it was changed: `run.json` and the tensors by a seal of their
own, all of a finished run by hashes in `run.json`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from ..config import to_dict
from ..data import Dataset, class_changes
from ..errors import ConfigError, RunError
from ..files import write_text
from ..locking import LOCK_FILE
from ..sealing import (
    changed,
    file_hash,
    read_record,
    write_record,
)
from ..settings.recipe import completed_recipe
from .disk_space import check_space

KEPT_FILES = ("metrics.jsonl", "model.safetensors", "predictions.safetensors")
Resume = Literal["auto", "never", "must"]

# what must be equal for a run to be continued; what is left out may differ between machines
IDENTITY = ("variant", "seed", "backbone", "weights", "plan", "recipe", "classes", "preprocessing", "teacher")


@dataclass(frozen=True)
class RunFolder:
    """A run on disk."""

    path: Path

    @property
    def description_file(self) -> Path:
        return self.path / "run.json"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def read(self) -> dict[str, Any]:
        """The description in `run.json`.

        Raises:
            RunError: missing, damaged, changed after it was written, not a run, or of another version.
        """
        return read_record(self.description_file, "run")

    def write(self, description: Mapping[str, Any]) -> None:
        write_record(self.description_file, "run", description)

    def finish(self, description: Mapping[str, Any]) -> None:
        """Write the description of a run whose other files are complete, with their hashes."""
        hashes = {name: file_hash(self.path / name) for name in KEPT_FILES if (self.path / name).is_file()}
        self.write({**description, "files": hashes})

    def check_files(self, description: Mapping[str, Any]) -> None:
        """Raise RunError where a file of a finished run is not the one that it was finished with."""
        hashes = description.get("files")
        for name, expected in hashes.items() if isinstance(hashes, dict) else ():
            path = self.path / Path(name).name
            try:
                found = file_hash(path)
            except OSError as error:
                raise RunError(f"{path} cannot be read ({error.strerror}): restore it from a copy.") from None
            if found != expected:
                raise changed(path)

    def write_metrics(self, rows: Sequence[Mapping[str, Any]]) -> None:
        write_text(self.metrics_file, "".join(json.dumps(dict(row)) + "\n" for row in rows))

    def read_metrics(self) -> list[dict[str, Any]]:
        """Rows of `metrics.jsonl`; none where it is missing."""
        if not self.metrics_file.is_file():
            return []
        try:
            return [json.loads(line) for line in self.metrics_file.read_text(encoding="utf-8").splitlines()]
        except (OSError, ValueError) as error:
            raise RunError(f"{self.metrics_file} cannot be read ({error}): train this run again.") from None

    @property
    def is_new(self) -> bool:
        """Whether nothing is in the folder that anybody could miss."""
        return not self.path.exists() or all(is_leftover(item) for item in self.path.iterdir())

    def open(
        self, description: Mapping[str, Any], resume: Resume, claim: Callable[[], None], needed_bytes: int
    ) -> dict[str, Any]:
        """Begin the run, or come back to it; the description that is on disk afterwards is returned.

        Args:
            description: of the run that is wanted.
            resume: as for `fit`.
            claim: makes sure that this process uses the folder alone; called before anything is read or written.
            needed_bytes: that the run takes on the disk.

        Raises:
            RunError: the folder belongs to something else, and nothing is changed; or `resume` forbids; or there is
                too little space.
            ConfigError: an unknown value of `resume`.
        """
        if resume not in get_args(Resume):
            raise ConfigError(f"resume is {resume!r}: expected auto, never or must.")
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path} is a file: choose a folder for the run.")
        is_new = self.is_new
        if is_new and resume == "must":
            raise RunError(f"there is no run in {self.path} to resume: leave out resume, or correct the folder.")
        if not is_new and not self.description_file.is_file():
            raise RunError(f"{self.path} has files but no run.json: choose an empty or a new folder.")
        if is_new:
            check_space(self.path, needed_bytes)
        else:
            self.read()  # nothing is written into a folder of others, not even a lock
            if resume == "never":
                raise RunError(f"there is a run in {self.path} already: choose a new folder, or resume it.")
        claim()
        if self.is_new:  # still: another process may have begun the run meanwhile
            self.write(description)
            return dict(description)
        found = self.read()
        self._check_same(found, json.loads(json.dumps(description)))
        self._check_shape(found)
        if found["status"] != "finished":
            check_space(self.path, needed_bytes)
            found["recipe"] = description["recipe"]
        return found

    def _check_shape(self, found: Mapping[str, Any]) -> None:
        """Raise RunError where an entry that a run goes on with is missing or something else."""
        kinds: dict[str, Any] = {
            "status": str,
            "precision": (dict, type(None)),
            "results": (dict, type(None)),
            "classes": list,
        }
        wrong = [key for key, kind in kinds.items() if key not in found or not isinstance(found[key], kind)]
        if wrong:
            raise RunError(
                f"{self.description_file} has no valid '{wrong[0]}': restore it from a copy or start a new run folder."
            )

    def _check_same(self, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        pairs = {key: (found.get(key), wanted.get(key)) for key in IDENTITY}
        # what is done about numbers that are not finite may change: a run that stopped because of them would never go on
        pairs["recipe"] = (_lasting(completed_recipe(found.get("recipe"))), _lasting(wanted.get("recipe")))
        pairs["data"] = (_fingerprint(found), _fingerprint(wanted))
        if found.get("precision") and wanted.get("precision"):
            pairs["precision"] = (found["precision"], wanted["precision"])
        for key, (old, new) in pairs.items():
            if old != new:
                named = (
                    class_changes(old or (), new or ())
                    if key == "classes" and _are_names(old)
                    else _first_difference(old, new)
                )
                raise RunError(
                    f"the run in {self.path} has {'other' if key == 'classes' else 'another'} {key} ({named}): "
                    "choose a new folder; nothing was changed."
                )


def describe_data(dataset: Dataset) -> dict[str, Any]:
    """What a run says about its images."""
    return {
        "name": dataset.name,
        "origin": to_dict(dataset.origin) if dataset.origin else None,
        "fingerprint": dataset.fingerprint,
        "classes": list(dataset.classes),
        "train_images": len(dataset.train),
        "val_images": len(dataset.val) if dataset.val is not None else None,
        "test_images": len(dataset.test),
        "notes": list(dataset.report.notes),
        "skipped": [list(item) for item in dataset.report.skipped],
        "leaks": [list(item) for item in dataset.report.leaks],
        "near_leaks": [list(item) for item in dataset.report.near_leaks],
        "duplicates": dataset.report.duplicates,
    }


def _lasting(recipe: Any) -> Any:
    """The part of a recipe that a resume must not change."""
    return (
        {key: value for key, value in recipe.items() if key != "on_nonfinite"} if isinstance(recipe, dict) else recipe
    )


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _fingerprint(description: Mapping[str, Any]) -> Any:
    data = description.get("data")
    return data.get("fingerprint") if isinstance(data, dict) else None


def is_leftover(item: Path) -> bool:
    """The lock, or what a process that was killed while it wrote the first file has left behind."""
    return item.name.startswith(LOCK_FILE) or (item.name.startswith(".") and item.name.endswith(".part"))


def _first_difference(old: Any, new: Any, where: str = "") -> str:
    """The first place where two JSON values differ, in words."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(set(old) | set(new)):
            if old.get(key) != new.get(key):
                return _first_difference(old.get(key), new.get(key), f"{where}.{key}" if where else key)
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, (a, b) in enumerate(zip(old, new, strict=True)):
            if a != b:
                return _first_difference(a, b, f"{where}[{number}]")
    prefix = f"{where}: " if where else ""
    return f"{prefix}{_short(old)} there, {_short(new)} asked for"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
