"""Progress bars of long tasks."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol


class Progress(Protocol):
    """Receives the progress of one task at a time."""

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


class Bar:
    """A bar on the terminal with the time left."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        # a title can hold the name of a variant, which is no markup
        title = TextColumn("{task.description}", style="progress.description", markup=False)
        columns = (title, BarColumn(bar_width=24), MofNCompleteColumn())
        numbers = TextColumn("{task.fields[numbers]}", markup=False)
        times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), numbers)
        self._bar = RichProgress(*columns, *times, console=Console(stderr=True), transient=True)
        self._task: Any = None

    def start(self, title: str, total: int, done: int = 0) -> None:
        self.stop()
        self._bar.start()
        self._task = self._bar.add_task(title, total=total, completed=done, numbers="")

    def advance(self, steps: int = 1) -> None:
        if self._task is not None:
            self._bar.advance(self._task, steps)

    def note(self, values: Mapping[str, Any]) -> None:
        if self._task is not None:
            text = "  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items())
            self._bar.update(self._task, numbers=text)

    def stop(self) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._bar.stop()
            self._task = None


def default_progress() -> Progress:
    """A bar where somebody can see it, else silence."""
    return Bar() if sys.stderr.isatty() else Silent()


@contextmanager
def watched(progress: Progress | None) -> Iterator[Progress]:
    """The given or the default progress, stopped at the end whatever happens."""
    shown = progress if progress is not None else default_progress()
    try:
        yield shown
    finally:
        shown.stop()


class _Titled:
    """Progress that says what it belongs to."""

    def __init__(self, inner: Progress, title: str) -> None:
        self._inner, self._title = inner, title

    def start(self, title: str, total: int, done: int = 0) -> None:
        self._inner.start(self._title, total, done)

    def advance(self, steps: int = 1) -> None:
        self._inner.advance(steps)

    def note(self, values: Mapping[str, Any]) -> None:
        self._inner.note(values)

    def stop(self) -> None:
        self._inner.stop()


def titled(progress: Progress, title: str) -> Progress:
    """The same progress under another title."""
    return _Titled(progress, title)


class Reading:
    """Shows the reading of images, given as (done, total) in all."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._done = 0

    def __call__(self, done: int, total: int) -> None:
        if self._done == 0:
            self._progress.start("reading images", total)
        self._progress.advance(done - self._done)
        self._done = done
        if done >= total:
            self._progress.stop()
