"""What all verbs share in talking to the terminal."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from ..config import parse_assignment

INTERRUPTED = 130  # as shells say it
USER_ERROR = 2  # the exit code of everything that the user can mend, a full disk among them


def console() -> Console:
    """Standard output."""
    return Console(highlight=False)


def error_console() -> Console:
    """Standard error."""
    return Console(stderr=True, highlight=False)


def print_json(value: Any) -> None:
    """Print for programs: nothing else goes to standard output."""
    sys.stdout.write(json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def command_line() -> str:
    """The command as it was typed, for the record."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def collect_overrides(assignments: Sequence[str], **flags: Any) -> dict[str, Any]:
    """Flags that were given, and `--set key=value` on top."""
    given = {key: value for key, value in flags.items() if value is not None}
    return given | dict(parse_assignment(text) for text in assignments)


def data_lines(data: dict[str, Any]) -> list[str]:
    """What the user must know about the images before trusting a number."""
    lines = list(data["notes"])
    if data["skipped"]:
        lines.append(
            f"{len(data['skipped'])} files could not be read and were left out, for example {data['skipped'][0][0]}"
        )
    if data["leaks"]:
        train, other = data["leaks"][0]
        lines.append(f"{len(data['leaks'])} images are in training and test alike, for example {train} = {other}")
    return lines
