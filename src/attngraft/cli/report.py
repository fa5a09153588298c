"""attngraft report: write the page of a folder of results again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from .options import argument
from .output import say


def run(
    folder: Annotated[
        Path, argument("FOLDER", "A run, a comparison, a combination, a bench, an explanation, a search or a store.")
    ],
) -> None:
    """Write report.html again from what is in the folder."""
    from ..reporting import write_report

    say(f"report: {write_report(folder)}")
