"""Log events of a run, and keep them in `run.json`."""

from __future__ import annotations

import logging
from dataclasses import replace
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
