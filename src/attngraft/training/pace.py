"""How long the rest of a task takes."""

from __future__ import annotations

import time
from collections.abc import Callable


class Pace:
    """Time left, from the time that the steps so far took.

    Args:
        total: steps of the task.
        done: of these before it began, which say nothing about its speed.
        clock: seconds.
    """

    def __init__(self, total: int, done: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self.total, self.done = total, done
        self._before, self._clock = done, clock
        self._began = clock()

    def advance(self, steps: int = 1) -> None:
        """Some steps were taken."""
        self.done += steps

    @property
    def used_s(self) -> float:
        """Seconds since it began."""
        return self._clock() - self._began

    @property
    def share(self) -> float:
        """Part of the task, 0 to 1, that was done since it began."""
        return (self.done - self._before) / self.total if self.total else 0.0

    @property
    def left_s(self) -> float | None:
        """Seconds; None before the first step."""
        taken = self.done - self._before
        return self.used_s / taken * max(self.total - self.done, 0) if taken > 0 else None


def clock_time(seconds: float | None) -> str:
    """Minutes and seconds, or hours.

    >>> clock_time(34.4), clock_time(754), clock_time(3723), clock_time(None)
    ('0:34', '12:34', '1:02:03', '-:--')
    """
    if seconds is None:
        return "-:--"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
