"""One adaptation on the disk: what was asked for, how far it has come, and what came of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...errors import RunError
from ...files import read_json, write_json
from ...timestamp import timestamp

ADAPTATIONS_FOLDER = "adaptations"
ADAPTATION_FILE = "adaptation.json"
ADAPTATION_FORMAT = 1
RUNNING, PROMOTED, REJECTED, REFUSED, GIVEN_UP = "running", "promoted", "rejected", "refused", "given up"


@dataclass
class Record:
    """The document of one adaptation; every change goes to the disk at once.

    Attributes:
        folder: of the adaptation, below that of the store.
        document: what `adaptation.json` says.
    """

    folder: Path
    document: dict[str, Any]

    @property
    def status(self) -> str:
        return str(self.document["status"])

    @property
    def is_running(self) -> bool:
        return self.status == RUNNING

    def get(self, key: str) -> Any:
        """An entry; None where it is not there yet."""
        return self.document.get(key)

    def note(self, **entries: Any) -> None:
        """Add entries, or replace them."""
        self.document |= json.loads(json.dumps(entries))
        write_json(self.folder / ADAPTATION_FILE, self.document)

    def finish(self, status: str, sentence: str) -> None:
        """The last change."""
        self.note(status=status, sentence=sentence, finished=timestamp())


def records(store: Path) -> tuple[Record, ...]:
    """All adaptations of a store, oldest first.

    Raises:
        RunError: one is damaged, or of a newer version.
    """
    home = store / ADAPTATIONS_FOLDER
    if not home.is_dir():
        return ()
    folders = [folder for folder in home.iterdir() if (folder / ADAPTATION_FILE).is_file()]
    return tuple(_read(folder) for folder in sorted(folders))


def begin(store: Path, *, domain: int, served: str, options: Any, data: Mapping[str, Any]) -> Record:
    """A new adaptation; its number is the next one."""
    number = 1 + max((int(record.get("number")) for record in records(store)), default=0)
    record = Record(store / ADAPTATIONS_FOLDER / f"{number:03d}", {})
    record.note(
        format=ADAPTATION_FORMAT,
        kind="adaptation",
        number=number,
        status=RUNNING,
        created=timestamp(),
        finished=None,
        domain=domain,
        served=served,
        options=asdict(options),
        data=dict(data),
    )
    return record


def _read(folder: Path) -> Record:
    document = read_json(folder / ADAPTATION_FILE)
    if not isinstance(document, dict) or document.get("kind") != "adaptation" or "number" not in document:
        raise RunError(f"{folder / ADAPTATION_FILE} is not the record of an adaptation: restore it from a copy.")
    if document.get("format") != ADAPTATION_FORMAT:
        raise RunError(
            f"{folder} has format {document.get('format')!r}, this version reads {ADAPTATION_FORMAT}: update attngraft."
        )
    return Record(folder, document)
