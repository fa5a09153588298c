"""What all verbs share in talking to the terminal."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from ..errors import visible
from ..files import to_json

USER_ERROR = 2  # the exit code of everything that the user can mend, a full disk among them

# Kinds of columns of `table`.
NAME: dict[str, Any] = {"no_wrap": True}
NUMBER: dict[str, Any] = {"no_wrap": True, "justify": "right"}
TEXT: dict[str, Any] = {"overflow": "fold"}

# characters that steer a terminal or turn the direction of what follows; names of files and classes can hold them
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_SECRET_NAME = re.compile(r"(?i)(token|secret|passw|credential|api_?key|access_?key|private_?key)")
_SHORTEST_SECRET = 8  # characters; shorter values are words that stand everywhere


class SafeConsole(Console):
    """A console on which text only ever is text: rich lets escape sequences in names through to the terminal."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As rich does it, with escapes in place of what steers a terminal."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=shown(segment.text))


def console(*, stderr: bool = False) -> Console:
    """Standard output, or standard error."""
    return SafeConsole(stderr=stderr, highlight=False, markup=False, emoji=False)


def say(text: object, *, wrap: bool = False, style: str | None = None) -> None:
    """Print a line; only with `wrap` it is broken at the width of the terminal, so that paths stay whole."""
    console().print(str(text), soft_wrap=not wrap, style=style)


def say_error(text: str) -> None:
    """Print a line to standard error."""
    console(stderr=True).print(text, soft_wrap=True)


def say_step(step: str) -> None:
    """Print to standard error what is being done."""
    say_error(f"{step} ...")


def say_notes(notes: Iterable[str]) -> None:
    """Print what the user must know before trusting a number."""
    for note in notes:
        say(f"note: {note}", wrap=True)


def table(columns: Mapping[str, Mapping[str, Any]], rows: Iterable[Sequence[str | Text]], **options: Any) -> Table:
    """A table of text: nothing in its cells is taken for markup.

    Args:
        columns: title -> `NAME`, `NUMBER` or `TEXT`.
        rows: a cell for each column.
        **options: title and caption.
    """
    made = Table(**options)
    for title, kind in columns.items():
        made.add_column(title, min_width=max(map(len, title.split()), default=0), **kind)  # no header breaks in a word
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in row))
    return made


def shown(text: str) -> str:
    r"""The text with escapes for what steers a terminal.

    >>> shown("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    return _STEERING.sub(lambda found: visible(found[0]), text)


def print_raw(text: str) -> None:
    """Print a text for programs, and on a terminal without what steers it."""
    sys.stdout.write("\n".join(map(shown, text.split("\n"))) if sys.stdout.isatty() else text)


def print_json(value: Any) -> None:
    """Print for programs: nothing else goes to standard output."""
    print_raw(to_json(value))


def command_line() -> str:
    """The command as it was typed, for the record, without values that the environment keeps as secrets."""
    return shlex.join(without_secrets(word, os.environ) for word in [Path(sys.argv[0]).name, *sys.argv[1:]])


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
