"""Show on standard error what the package logs while it works, unless logging is set up to do so or not to.

Everything goes through loggers below `attngraft`. A handler is there only while something works that shows its progress,
so a program that sets up logging itself gets each line once, by its own handlers.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

LOGGER = "attngraft"


class ConsoleHandler(logging.Handler):
    """Prints above a bar that the same console shows; warnings are left to handlers of the program, where it has some."""

    @cached_property
    def console(self) -> Console:
        """Standard error."""
        from .terminal import console

        return console(stderr=True)

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record, or hand it on."""
        parent = logging.getLogger(LOGGER).parent
        if parent is not None and record.levelno >= parent.getEffectiveLevel() and parent.hasHandlers():
            parent.callHandlers(record)
            return
        from .terminal import folded

        text = record.getMessage()
        try:
            shown = folded(text, self.console.width) if self.console.is_terminal else text
            self.console.print(shown, soft_wrap=True)
        except (OSError, ValueError):  # a closed terminal is no reason to end a training
            self.handleError(record)


@contextmanager
def shown_on_console() -> Iterator[None]:
    """Show what is logged, from INFO on, within the block."""
    logger = logging.getLogger(LOGGER)
    if _is_left_to_others(logger):
        yield
        return
    handler, before = ConsoleHandler(), (logger.level, logger.propagate)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]


def _is_left_to_others(logger: logging.Logger) -> bool:
    """Whether lines are shown already, by this package or the program, or are not wanted."""
    if any(isinstance(handler, ConsoleHandler) for handler in logger.handlers):
        return True
    return logger.hasHandlers() if logger.isEnabledFor(logging.INFO) else logger.level != logging.NOTSET


@contextmanager
def quiet() -> Iterator[None]:
    """Log nothing below warnings within the block, and show no progress."""
    logger = logging.getLogger(LOGGER)
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)


def is_quiet() -> bool:
    """Whether what is logged while something works is not wanted; ask within `shown_on_console`."""
    return not logging.getLogger(LOGGER).isEnabledFor(logging.INFO)


def log_console() -> Console:
    """The console on which lines are shown, so that a bar on it stays below them."""
    for handler in logging.getLogger(LOGGER).handlers:
        if isinstance(handler, ConsoleHandler):
            return handler.console
    return ConsoleHandler().console
