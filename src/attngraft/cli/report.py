"""attngraft report: build the page of a folder of results again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..reporting import write_report
from .output import console


def run(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER", help="Folder of a run, a comparison, a bench, an explanation, a search or a store."
        ),
    ],
) -> None:
    """Write report.html again from what is in the folder."""
    console().print(f"report: {write_report(folder)}", markup=False, soft_wrap=True)
