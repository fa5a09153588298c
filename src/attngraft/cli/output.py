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

from ..config import parse_assignment
from ..data import printable
from ..errors import visible
from ..files import to_json

USER_ERROR = 2  # the exit code of everything that the user can mend, a full disk among them


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


def console() -> Console:
    """Standard output."""
    return SafeConsole(highlight=False, markup=False, emoji=False)


def error_console() -> Console:
    """Standard error."""
    return SafeConsole(stderr=True, highlight=False, markup=False, emoji=False)


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
    """The command as it was typed, for the record; what the environment keeps as a secret is left out of it."""
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


def collect_overrides(assignments: Sequence[str], **flags: Any) -> dict[str, Any]:
    """Flags that were given, and `--set key=value` on top."""
    given = {key: value for key, value in flags.items() if value is not None}
    return given | dict(parse_assignment(text) for text in assignments)


def _pair(pairs: Sequence[Sequence[str]], sign: str) -> str:
    return f" {sign} ".join(map(printable, pairs[0]))


def data_lines(data: dict[str, Any]) -> list[str]:
    """What the user must know about the images before trusting a number."""
    lines = list(data["notes"])
    if data["skipped"]:
        lines.append(
            f"{len(data['skipped'])} files could not be read and were left out, for example "
            f"{printable(data['skipped'][0][0])}"
        )
    if data["leaks"]:
        lines.append(f"{len(data['leaks'])} pictures are in two splits, for example {_pair(data['leaks'], '=')}")
    if data.get("near_leaks"):
        near = data["near_leaks"]
        lines.append(f"{len(near)} pictures are nearly equal to one of another split, for example {_pair(near, '~')}")
    if data["leaks"] or data.get("near_leaks"):
        lines.append("the accuracies may be too high for that: --fix-leaks keeps such pictures on one side")
    return lines
