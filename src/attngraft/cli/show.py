"""attngraft show: what a folder or file of ours is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from ..inventory import identify, label, told
from . import options
from .options import argument
from .output import NAME, TEXT, console, print_json, say, table


def run(
    path: Annotated[Path, argument("PATH", "Any folder or file that attngraft has written.")],
    as_json: options.Json = False,
) -> None:
    """Say what a folder or file of ours is, with its main figures and the next commands."""
    found = identify(path)
    if as_json:
        print_json(found.to_json())
        return
    rows = [(label(name), told(name, value)) for name, value in found.facts.items()]
    say(found.title, wrap=True, style="bold")
    console().print(table({"": NAME, " ": TEXT}, rows, show_header=False))
    for command in found.commands:
        say(command)
