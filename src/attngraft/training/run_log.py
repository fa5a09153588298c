"""What a run tells while it lasts: events, also kept in `run.json`, and TensorBoard files."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..timestamp import timestamp
from .run_folder import RunFolder
from .run_record import RunEvent, RunRecord

log = logging.getLogger("attngraft.training")


class RunLog:
    """Keeps the record of a run.

    Args:
        run: its folder.
        record: as it is on disk.
        is_main: whether this process writes; the others only keep it in memory.
    """

    def __init__(self, run: RunFolder, record: RunRecord, is_main: bool) -> None:
        self.run, self.record, self.is_main = run, record, is_main

    def __call__(self, sentence: str) -> None:
        """Add an event to the record, and log it."""
        if self.is_main:
            log.warning(sentence)
            self.update(events=(*self.record.events, RunEvent(timestamp(), sentence)))

    def update(self, **entries: Any) -> None:
        """Change entries of the record, here and on disk."""
        self.record = replace(self.record, **entries)
        if self.is_main:
            self.run.write(self.record)


class Board(AbstractContextManager["Board"]):
    """TensorBoard scalars, one per number of an epoch's row.

    Args:
        folder: for the event files; None writes nothing.
        epochs_done: of a run that goes on; what was written for later epochs is forgotten.
    """

    def __init__(self, folder: Path | None, epochs_done: int = 0) -> None:
        self._writer: Any = None
        if folder is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder), purge_step=epochs_done + 1)

    def write(self, row: Mapping[str, Any]) -> None:
        if self._writer is None:
            return
        pace = {f"dynamic/{key}": value for key, value in row.get("dynamic", {}).items()}
        for key, value in {**row, **pace}.items():
            if isinstance(value, float):
                self._writer.add_scalar(key, value, row["epoch"])
        self._writer.flush()

    def __exit__(self, *exception: object) -> None:
        if self._writer is not None:
            self._writer.close()
