"""The folder of a search: `iterate.json` is the whole truth of it, written whole after every event."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...environment import hardware, versions
from ...errors import RunError
from ...files import read_json, write_json
from ...settings.recipe import completed_recipe
from ...timestamp import timestamp

ITERATION_FILE = "iterate.json"
ITERATION_FORMAT = 1
LOCK_FILE = "lock"

# what must be equal for a search to be continued
IDENTITY = (
    "until", "budget_s", "trials_asked", "seeds", "seed", "backbone", "pretrained", "weights", "space", "preprocessing",
)  # fmt: skip


@dataclass
class SearchRecord:
    """A search on disk.

    Attributes:
        folder: its folder.
        document: the content of `iterate.json`; every change is followed by `write`.
    """

    folder: Path
    document: dict[str, Any]

    @property
    def trials(self) -> list[dict[str, Any]]:
        """One row per trial, the last of which may be running."""
        rows: list[dict[str, Any]] = self.document["trials"]
        return rows

    @property
    def ended(self) -> list[dict[str, Any]]:
        return [row for row in self.trials if row["status"] != "running"]

    def write(self) -> None:
        """Write the document whole.

        Raises:
            RunError: the disk is full; the one before is still there.
        """
        write_json(self.folder / ITERATION_FILE, self.document)

    def trial_folder(self, row: Mapping[str, Any]) -> Path:
        return self.folder / str(row["run"])


def check_folder(folder: Path) -> None:
    """Raise RunError where the folder holds something else than a search."""
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file: choose a folder for the search.")
    if not folder.is_dir() or (folder / ITERATION_FILE).is_file():
        return
    if any(not _is_leftover(item) for item in folder.iterdir()):
        raise RunError(f"{folder} has files but no {ITERATION_FILE}: choose an empty or a new folder.")


def open_record(folder: Path, request: Mapping[str, Any]) -> SearchRecord:
    """Begin a search or come back to it.

    Args:
        folder: checked, and held by this process alone.
        request: what was asked for, plain values.

    Raises:
        RunError: the folder belongs to another search; nothing was changed.
    """
    path, wanted = folder / ITERATION_FILE, json.loads(json.dumps(dict(request)))
    if path.is_file():
        found = read_json(path)
        _check_same(folder, found, wanted)
        return SearchRecord(folder, found)
    document = {
        "format": ITERATION_FORMAT,
        "kind": "iteration",
        "status": "searching",
        "created": timestamp(),
        **wanted,
        "precision": None,
        "trials": [],
        "search_ended": None,
        "finalist": None,
        "verdict": None,
        "sentence": None,
        "notes": [],
        "hardware": hardware(),
        "versions": versions(),
    }
    return SearchRecord(folder, document)


def _check_same(folder: Path, found: Any, wanted: Mapping[str, Any]) -> None:
    if not isinstance(found, dict) or found.get("kind") != "iteration":
        raise RunError(f"{folder / ITERATION_FILE} is not a search: choose another folder.")
    if found.get("format") != ITERATION_FORMAT:
        raise RunError(
            f"{folder} has format {found.get('format')!r}, this version reads {ITERATION_FORMAT}: update attngraft."
        )
    if not all(isinstance(found.get(key), list) for key in ("trials", "notes")):
        raise RunError(f"{folder / ITERATION_FILE} is damaged: restore it from a copy or choose a new folder.")
    pairs = {key: (found.get(key), wanted.get(key)) for key in IDENTITY}
    if _fingerprint(found) != _fingerprint(wanted):
        raise RunError(f"the search in {folder} was begun with other images: choose a new folder; nothing was changed.")
    pairs["space"] = (_completed(found.get("space")), wanted.get("space"))
    for key, (old, new) in pairs.items():
        if old != new:
            name = key.removesuffix("_s").removesuffix("_asked")
            told = f" ({old} there, {new} asked for)" if isinstance(old, (str, int, float)) else ""
            raise RunError(
                f"the search in {folder} was begun with another {name}{told}: choose a new folder, and new test images "
                "if its test was made; nothing was changed."
            )


def _completed(space: Any) -> Any:
    """A space whose recipes an earlier version wrote, with the fields that it did not know."""
    if not isinstance(space, dict) or not isinstance(space.get("recipes"), dict):
        return space
    return {**space, "recipes": {name: completed_recipe(recipe) for name, recipe in space["recipes"].items()}}


def _fingerprint(document: Mapping[str, Any]) -> Any:
    data = document.get("data")
    return data.get("fingerprint") if isinstance(data, dict) else None


def _is_leftover(item: Path) -> bool:
    """The lock, and what a process that was killed while it wrote the first file has left behind."""
    return item.name in (LOCK_FILE, f"{LOCK_FILE}.holder") or item.name.startswith(f".{ITERATION_FILE}.")
