"""What happened to a run that its numbers do not show: kept in `run.json`, and said in the log."""

from __future__ import annotations

import logging
from typing import Any

from ..timestamp import timestamp
from .run_folder import RunFolder

log = logging.getLogger("attngraft.training")


class Notes:
    """Keeps sentences under "events" of a run's description.

    Args:
        run: its folder.
        description: its description, which whoever writes it later must take from here too.
        is_main: whether this process writes; the others only forget.
    """

    def __init__(self, run: RunFolder, description: dict[str, Any], is_main: bool) -> None:
        self.run, self.description, self.is_main = run, description, is_main

    def __call__(self, sentence: str) -> None:
        if self.is_main:
            log.warning(sentence)
            self.description.setdefault("events", []).append({"time": timestamp(), "text": sentence})
            self.run.write(self.description)
