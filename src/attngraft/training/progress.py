"""Progress of long tasks: what a caller can follow, and how it is shown where nobody says otherwise.

Steps go to a `Progress`, by default a bar on a terminal. Lines, such as one per epoch, go through `logging`, and are shown
on standard error while the default progress is there.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from ..console_log import is_quiet, shown_on_console
from .pace import Pace, clock_time
from .progress_bar import Bar


class Progress(Protocol):
    """Receives the progress of one task at a time.

    It may also have a method `doing(what)`, which is told what the time until the next step is spent on.
    """

    def start(self, title: str, total: int, done: int = 0) -> None:
        """A task of `total` steps begins, of which `done` are done already."""

    def advance(self, steps: int = 1) -> None:
        """Some steps were taken."""

    def note(self, values: Mapping[str, Any]) -> None:
        """Numbers to show beside the bar."""

    def stop(self) -> None:
        """The task ended."""


class Silent:
    """Tells nobody anything."""

    def start(self, title: str, total: int, done: int = 0) -> None:
        return

    def advance(self, steps: int = 1) -> None:
        return

    def note(self, values: Mapping[str, Any]) -> None:
        return

    def stop(self) -> None:
        return


def default_progress() -> Progress:
    """A bar where somebody can see it and wants to, else silence."""
    return Bar() if sys.stderr.isatty() and not is_quiet() else Silent()


@contextmanager
def watched(progress: Progress | None) -> Iterator[Progress]:
    """The given progress, or the default one and lines on standard error; stopped at the end whatever happens."""
    if progress is None:
        with shown_on_console(), watched(default_progress()) as shown:
            yield shown
        return
    try:
        yield progress
    finally:
        progress.stop()


def doing(progress: Progress, what: str) -> None:
    """Say what the time until the next step is spent on, to a progress that shows it."""
    told = getattr(progress, "doing", None)
    if told is not None:
        told(what)


def left_for_all(progress: Progress) -> float | None:
    """Seconds until the whole is done that a task is a part of; None where it is alone, or nobody knows."""
    return progress.whole.left_s if isinstance(progress, Part) and progress.whole is not None else None


class Whole:
    """A task of equal parts, such as the runs of a comparison: names each, and knows the time left for all.

    Parts that were done before take no time and are no measure for the others.

    Args:
        progress: shows the steps of one part after the other.
        parts: how many there are.
        log: gets a line when a part begins, and when one is done; None for none.
    """

    def __init__(self, progress: Progress, parts: int, log: logging.Logger | None) -> None:
        self.progress, self.parts, self.log = progress, parts, log
        self.done = 0  # parts
        self._share, self._used_s = 0.0, 0.0  # of parts that took time
        self._current: Part | None = None

    def part(self, title: str) -> Part:
        """The progress of the next part; the one before is done."""
        self._close()
        self._current = Part(self.progress, title, self.log, self)
        return self._current

    def summary(self, noun: str, best: str) -> str:
        """What is done, the best so far where there is one, and the time left, once the present part is done."""
        self._close()
        left = "" if self.left_s is None or self.done >= self.parts else f"{clock_time(self.left_s)} left for all"
        return "  ".join(part for part in (f"{self.done} of {self.parts} {noun} done", best, left) if part)

    def tell(self, noun: str, best: str) -> None:
        """Log the summary."""
        if self.log is not None:
            self.log.info(self.summary(noun, best))

    @property
    def left_s(self) -> float | None:
        """Seconds until all parts are done; None before the first step."""
        pace = None if self._current is None else self._current.pace
        share, used_s, here = (
            (0.0, 0.0, 0.0) if pace is None else (pace.share, pace.used_s, pace.done / (pace.total or 1))
        )
        share, used_s = self._share + share, self._used_s + used_s
        return used_s / share * max(self.parts - self.done - here, 0.0) if share > 0 else None

    def _close(self) -> None:
        if self._current is None:
            return
        pace = self._current.pace
        if pace is not None:
            self._share, self._used_s = self._share + pace.share, self._used_s + pace.used_s
        self.done, self._current = self.done + 1, None


class Part:
    """Progress of one part of a whole, under its title.

    Args:
        inner: shows it.
        title: in place of the titles of its tasks.
        log: gets the title when the part begins; None for none.
        whole: that it is a part of, where that has a known number of them.
    """

    def __init__(
        self, inner: Progress, title: str, log: logging.Logger | None = None, whole: Whole | None = None
    ) -> None:
        self._inner, self._title, self._log, self.whole = inner, title, log, whole
        self.pace: Pace | None = None

    def start(self, title: str, total: int, done: int = 0) -> None:
        if self._log is not None and self.pace is None:
            self._log.info(self._title)
        self.pace = Pace(total, done)
        self._inner.start(self._title, total, done)

    def advance(self, steps: int = 1) -> None:
        if self.pace is not None:
            self.pace.advance(steps)
        self._inner.advance(steps)

    def note(self, values: Mapping[str, Any]) -> None:
        left = left_for_all(self)
        self._inner.note(values if left is None else {**values, "all": f"{clock_time(left)} left"})

    def doing(self, what: str) -> None:
        doing(self._inner, what)

    def stop(self) -> None:
        self._inner.stop()


def titled(progress: Progress, title: str, log: logging.Logger | None = None) -> Part:
    """The same progress under another title, which the log gets when it begins."""
    return Part(progress, title, log)


class Told:
    """Progress that also says in lines how far a task is: when it begins, and then every few seconds.

    Args:
        inner: shows it.
        log: gets the lines.
        every_s: seconds between lines, at least.
        clock: seconds.
    """

    def __init__(
        self,
        inner: Progress,
        log: logging.Logger,
        *,
        every_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._inner, self._log, self._every_s, self._clock = inner, log, every_s, clock
        self._title, self._pace, self._told_at = "", Pace(0, 0, clock), clock()

    def start(self, title: str, total: int, done: int = 0) -> None:
        self._title, self._pace, self._told_at = title, Pace(total, done, self._clock), self._clock()
        self._log.info(f"{title} ...")
        self._inner.start(title, total, done)

    def advance(self, steps: int = 1) -> None:
        pace, now = self._pace, self._clock()
        pace.advance(steps)
        if now - self._told_at >= self._every_s and pace.done < pace.total:
            self._told_at = now
            self._log.info(f"{self._title}  {pace.done:,} of {pace.total:,}  {clock_time(pace.left_s)} left")
        self._inner.advance(steps)

    def note(self, values: Mapping[str, Any]) -> None:
        self._inner.note(values)

    def doing(self, what: str) -> None:
        doing(self._inner, what)

    def stop(self) -> None:
        self._inner.stop()


class Reading:
    """Shows the reading of images, given as (done, total) in all."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._done = 0
        doing(progress, "looking for images")

    def __call__(self, done: int, total: int) -> None:
        if self._done == 0:
            self._progress.start("reading images", total)
        self._progress.advance(done - self._done)
        self._done = done
        if done >= total:
            self._progress.stop()
            self._done = 0
            doing(self._progress, "checking splits and copies")
