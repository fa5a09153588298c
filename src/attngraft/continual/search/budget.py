"""A time budget whose clock persists across restarts."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ...errors import ConfigError, RunError
from ...files import read_json, write_json
from ...training import Progress, doing
from ...training.pace import clock_time

UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}
WRITTEN_EVERY_S = 5.0  # seconds that a killed process can lose


def parse_budget(text: str | float) -> float:
    """Seconds from "90s", "45m", "2h", "1h30m", or a number of seconds.

    >>> parse_budget("1h30m"), parse_budget("1.5h"), parse_budget(90)
    (5400.0, 5400.0, 90.0)

    Raises:
        ConfigError: not readable, not finite, or not above 0.
    """
    seconds = _seconds(text.strip().lower()) if isinstance(text, str) else float(text)
    if seconds is None:
        raise ConfigError(f"the budget '{text}' cannot be read: write for example 90s, 45m, 2h or 1h30m.")
    if not 0 < seconds < math.inf:
        raise ConfigError(f"the budget is {text}: expected more than 0 seconds, for example 45m.")
    return seconds


def _seconds(text: str) -> float | None:
    number = r"\d+(?:\.\d+)?|\.\d+"
    if re.fullmatch(number, text):
        return float(text)
    parts = re.fullmatch("".join(rf"(?:({number})\s*{unit}\s*)?" for unit in UNITS), text)
    if parts is None or not any(parts.groups()):
        return None
    return sum(float(part) * size for part, size in zip(parts.groups(), UNITS.values(), strict=True) if part)


class Clock:
    """Elapsed seconds, kept in a file so that the budget spans restarts.

    Args:
        path: the file.
        budget_s: seconds that may be used.
        started: when this process began, by `time.monotonic`; now where not given.

    Raises:
        RunError: the file is damaged.
    """

    def __init__(self, path: Path, budget_s: float, started: float | None = None) -> None:
        self.path, self.budget_s = path, budget_s
        self._before = _read(path)
        self._written = time.monotonic()
        self._started = self._written if started is None else started

    @property
    def used_s(self) -> float:
        return self._before + time.monotonic() - self._started

    @property
    def left_s(self) -> float:
        return self.budget_s - self.used_s

    @property
    def told(self) -> str:
        """What is used of the budget, for people."""
        return f"{clock_time(self.used_s)} of {clock_time(self.budget_s)}"

    def tick(self) -> None:
        """Write the file, unless that was done recently."""
        if time.monotonic() - self._written > WRITTEN_EVERY_S:
            self.write()

    def write(self) -> None:
        """Write the file.

        Raises:
            RunError: the disk is full.
        """
        self._written = time.monotonic()
        write_json(self.path, {"used_s": round(self.used_s, 3)})

    @contextmanager
    def written_at_the_end(self) -> Iterator[None]:
        """Write the file however the block ends; where the disk is full, the error in the block counts."""
        try:
            yield
        finally:
            with suppress(RunError):
                self.write()


def _read(path: Path) -> float:
    if not path.is_file():
        return 0.0
    found = read_json(path)
    used = found.get("used_s") if isinstance(found, dict) else None
    if not isinstance(used, (int, float)) or isinstance(used, bool) or not 0 <= used < math.inf:
        raise RunError(f"{path} does not say how much time was used: restore it from a copy or choose a new folder.")
    return float(used)


class Ticking:
    """Progress that also lets a clock write its file."""

    def __init__(self, inner: Progress, clock: Clock) -> None:
        self._inner, self._clock = inner, clock

    def start(self, title: str, total: int, done: int = 0) -> None:
        self._inner.start(title, total, done)

    def advance(self, steps: int = 1) -> None:
        self._clock.tick()
        self._inner.advance(steps)

    def note(self, values: Mapping[str, Any]) -> None:
        self._inner.note({**values, "budget": self._clock.told})

    def doing(self, what: str) -> None:
        doing(self._inner, what)

    def stop(self) -> None:
        self._inner.stop()
