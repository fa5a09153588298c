"""A bar on the terminal, whole at any width."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..console_log import log_console
from .pace import Pace, clock_time

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.live import Live
    from rich.text import Text

STALLED_S = 3.0  # after so long without a step the bar says what it waits for
LEAST_BAR, MOST_BAR = 8, 24


class Bar:
    """A bar on the terminal with the time left; after a few seconds without a step it says what it waits for.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._live: Live | None = None
        self._title, self._numbers, self._what = "", "", ""
        self._pace: Pace | None = None
        self._since = clock()

    def start(self, title: str, total: int, done: int = 0) -> None:
        self.stop()
        self._title, self._pace = title, Pace(total, done, self._clock)
        self._show()

    def advance(self, steps: int = 1) -> None:
        if self._pace is not None:
            self._pace.advance(steps)
            self._since, self._what = self._clock(), ""

    def note(self, values: Mapping[str, Any]) -> None:
        told = (f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items())
        self._numbers = "  ".join(told)

    def doing(self, what: str) -> None:
        """What the time until the next step is spent on."""
        if what != self._what:
            self._what, self._since = what, self._clock()
        self._show()

    def stop(self) -> None:
        if self._live is not None:
            self._live.stop()
        self._live, self._pace = None, None
        self._title, self._numbers, self._what = "", "", ""

    def _show(self) -> None:
        self._since = self._clock() if self._live is None else self._since
        if self._live is None:
            from rich.live import Live

            self._live = Live(self, console=log_console(), transient=True, refresh_per_second=5)
            self._live.start()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.text(options.max_width)

    def text(self, width: int) -> Text:
        """What is shown: one line, or several where these are too narrow for it."""
        from rich.text import Text

        waited = self._clock() - self._since
        waits = f"{self._what} ({clock_time(waited)})" if self._what and waited >= STALLED_S else ""
        if self._pace is None:
            return Text(waits)
        pace = self._pace
        times = f"{pace.done:,}/{pace.total:,}  {clock_time(pace.used_s)}, {clock_time(pace.left_s)} left"
        words = "  ".join(part for part in (times, self._numbers, waits) if part)
        room = width - len(self._title) - len(words) - 4
        if room >= LEAST_BAR:
            return Text.assemble(self._title, "  ", *_bar(pace, min(room, MOST_BAR)), "  ", words)
        bar = _bar(pace, min(max(width - len(times) - 2, LEAST_BAR), MOST_BAR))
        rest = "  ".join(part for part in (self._numbers, waits) if part)
        if rest and len(self._title) + 2 + len(rest) <= width:
            return Text.assemble(self._title, "  ", rest, "\n", *bar, "  ", times)
        return Text.assemble(self._title, "\n", *bar, "  ", times, *(("\n", rest) if rest else ()))


def _bar(pace: Pace, width: int) -> tuple[tuple[str, str], tuple[str, str]]:
    full = round(width * min(pace.done / pace.total, 1.0)) if pace.total else 0
    return ("━" * full, "bar.complete"), ("━" * (width - full), "bar.back")
