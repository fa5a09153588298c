"""The run folder: every file of a run.

`run.json` (what was done), `metrics.jsonl` (one row per epoch), `model.safetensors`, `predictions.safetensors`, and
`checkpoints/` while the run is not finished. Each notices when it was changed: `run.json` and the tensors by a seal of their
own, all of a finished run by hashes in `run.json`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from ..checksums import (
    changed,
    file_hash,
    read_record,
    write_record,
)
from ..config import to_dict
from ..data import class_changes
from ..errors import ConfigError, RunError
from ..files import write_text
from ..locking import LOCK_FILE
from ..surgery.own_networks import check_unchanged
from .disk_space import check_space
from .run_record import RunRecord

KEPT_FILES = ("metrics.jsonl", "model.safetensors", "predictions.safetensors")
Resume = Literal["auto", "never", "must"]


@dataclass(frozen=True)
class RunFolder:
    """A run on disk."""

    path: Path

    @property
    def record_file(self) -> Path:
        return self.path / "run.json"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def read(self) -> RunRecord:
        """The record in `run.json`.

        Raises:
            RunError: missing, damaged, changed after it was written, not a run, or of another version.
        """
        document = read_record(self.record_file, "run")
        try:
            return RunRecord.from_json(document)
        except ConfigError as error:
            raise RunError(
                f"{self.record_file} cannot be used ({str(error).rstrip('.')}): restore it from a copy or start a new run "
                "folder."
            ) from None

    def write(self, record: RunRecord) -> None:
        """Write `run.json`."""
        write_record(self.record_file, "run", record.to_json())

    def finish(self, record: RunRecord) -> None:
        """Write the record of a run whose other files are complete, with their hashes."""
        hashes = {name: file_hash(self.path / name) for name in KEPT_FILES if (self.path / name).is_file()}
        self.write(replace(record, files=hashes))

    def check_files(self, record: RunRecord) -> None:
        """Raise RunError where a file of a finished run is not the one that it was finished with."""
        for name, expected in (record.files or {}).items():
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

    def open(self, wanted: RunRecord, resume: Resume, claim: Callable[[], None], needed_bytes: int) -> RunRecord:
        """Begin the run, or come back to it; the record that is on disk afterwards is returned.

        Args:
            wanted: of the run that is to be trained.
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
        if not is_new and not self.record_file.is_file():
            raise RunError(f"{self.path} has files but no run.json: choose an empty or a new folder.")
        if is_new:
            check_space(self.path, needed_bytes)
        else:
            self.read()  # nothing is written into a folder of others, not even a lock
            if resume == "never":
                raise RunError(f"there is a run in {self.path} already: choose a new folder, or resume it.")
        claim()
        if self.is_new:  # still: another process may have begun the run meanwhile
            self.write(wanted)
            return wanted
        found = self.read()
        self._check_same(found, wanted)
        if found.status == "finished":
            return found
        check_space(self.path, needed_bytes)
        return replace(found, recipe=wanted.recipe)

    def _check_same(self, found: RunRecord, wanted: RunRecord) -> None:
        old, new = found.identity(), wanted.identity()
        old["data"], new["data"] = found.data.fingerprint, wanted.data.fingerprint
        if found.precision and wanted.precision:
            old["precision"], new["precision"] = to_dict(found.precision), to_dict(wanted.precision)
        check_unchanged(found.backbone, wanted.backbone, f"the run in {self.path}")
        for key, there in old.items():
            if there != new[key]:
                named = class_changes(there, new[key]) if key == "classes" else _first_difference(there, new[key])
                raise RunError(
                    f"the run in {self.path} has {'other' if key == 'classes' else 'another'} {key} ({named}): "
                    "choose a new folder; nothing was changed."
                )


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
