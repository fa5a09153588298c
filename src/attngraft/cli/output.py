"""What all verbs share in talking to the terminal."""

from __future__ import annotations

import logging
import os
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from rich.text import Text

from ..files import to_json
from ..terminal import console, shown
from ..whole_table import WholeTable

USER_ERROR = 2  # the exit code of everything that the user can mend, a full disk among them

# Kinds of columns of `table`.
NAME: dict[str, Any] = {"no_wrap": True}
NUMBER: dict[str, Any] = {"no_wrap": True, "justify": "right"}
TEXT: dict[str, Any] = {"overflow": "fold"}

_SECRET_NAME = re.compile(r"(?i)(token|secret|passw|credential|api_?key|access_?key|private_?key)")
_SHORTEST_SECRET = 8  # characters; shorter values are words that stand everywhere
log = logging.getLogger(__name__)


def say(text: object, *, wrap: bool = False, style: str | None = None) -> None:
    """Print a line; only with `wrap` it is broken at the width of the terminal, between words: paths stay whole."""
    out, shown = console(), str(text)
    if wrap:
        lines = (fill(line, out.width, break_long_words=False, break_on_hyphens=False) for line in shown.split("\n"))
        shown = "\n".join(lines)
    out.print(shown, soft_wrap=True, style=style)


def say_error(text: str) -> None:
    """Print a line to standard error."""
    console(stderr=True).print(text, soft_wrap=True)


def say_step(step: str) -> None:
    """Tell on standard error what is being done, unless nobody wants to know."""
    log.info(f"{step} ...")


def say_notes(notes: Iterable[str]) -> None:
    """Print what the user must know before trusting a number."""
    for note in notes:
        say(f"note: {note}", wrap=True)


def table(columns: Mapping[str, Mapping[str, Any]], rows: Iterable[Sequence[str | Text]], **options: Any) -> WholeTable:
    """A table of text: nothing in its cells is taken for markup, or cut.

    Args:
        columns: title -> `NAME`, `NUMBER` or `TEXT`.
        rows: a cell for each column.
        **options: title and caption.
    """
    made = WholeTable(**options)
    for title, kind in columns.items():
        made.add_column(title, **kind)
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in row))
    return made


def print_raw(text: str) -> None:
    """Print a text for programs, and on a terminal without what steers it."""
    sys.stdout.write("\n".join(map(shown, text.split("\n"))) if sys.stdout.isatty() else text)


def print_json(value: Any) -> None:
    """Print for programs: nothing else goes to standard output."""
    print_raw(to_json(value))


def command_line() -> str:
    """The command as it was typed, for the record, without values that the environment keeps as secrets."""
    typed = Path(sys.argv[0]).name
    name = "attngraft" if typed == "__main__.py" else typed  # python -m attngraft
    return shlex.join(without_secrets(word, os.environ) for word in [name, *sys.argv[1:]])


def without_secrets(text: str, environment: Mapping[str, str]) -> str:
    """The text with *** for values of variables that are named like secrets.

    >>> without_secrets("fit --root s3://hunter2hunter2@x", {"MY_TOKEN": "hunter2hunter2"})
    'fit --root s3://***@x'
    """
    secrets = [v for name, v in environment.items() if _SECRET_NAME.search(name) and len(v) >= _SHORTEST_SECRET]
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def names(text: str) -> tuple[str, ...]:
    """The names in a comma-separated list.

    >>> names("cbam, se")
    ('cbam', 'se')
    """
    return tuple(part.strip() for part in text.split(","))
