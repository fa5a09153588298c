"""A terminal on which text only ever is text."""

from __future__ import annotations

import re
from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from .errors import visible

# characters that steer a terminal or turn the direction of what follows; names of files and classes can hold them
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class SafeConsole(Console):
    """A console on which text only ever is text: rich lets escape sequences in names through to the terminal."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As rich does it, with escapes in place of what steers a terminal."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=shown(segment.text))


def console(*, stderr: bool = False) -> Console:
    """Standard output, or standard error."""
    return SafeConsole(stderr=stderr, highlight=False, markup=False, emoji=False)


def shown(text: str) -> str:
    r"""The text with escapes for what steers a terminal.

    >>> shown("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    return _STEERING.sub(lambda found: visible(found[0]), text)


def folded(text: str, width: int) -> str:
    """The text in lines of at most this width, broken between parts that two spaces separate.

    >>> print(folded("epoch 1/2 all  loss 0.4  lr 0.1", 24))
    epoch 1/2 all  loss 0.4
      lr 0.1
    """
    lines: list[str] = []
    for part in text.split("  "):
        if lines and len(lines[-1]) + 2 + len(part) <= width:
            lines[-1] += f"  {part}"
        else:
            lines.append(f"  {part}" if lines else part)
    return "\n".join(lines)
