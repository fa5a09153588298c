"""attngraft fold: turn gates that hardly depend on the image into weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from ..explanation.folding import fold
from ..explanation.folding_result import Folding, check_free
from ..explanation.image_source import view_of
from ..surgery import load
from ..surgery.fold import KEPT
from ..training import MachineSettings
from . import options
from .output import console, error_console, print_json


def run(
    model: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or a file written by attngraft.save.")],
    data: Annotated[
        str,
        typer.Argument(
            help="Labelled images: a folder of class folders, or of train and test folders, or a built-in data set."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the folded model.")],
    tolerance: Annotated[float, typer.Option(help="Accuracy that may be lost on these images, as a fraction.")] = 0.005,
    batch_size: Annotated[int, typer.Option(help="Images per forward pass.", min=1)] = 64,
    limit: Annotated[int | None, typer.Option(help="Use at most this many images.", min=1)] = None,
    skip_broken: Annotated[bool, typer.Option("--skip-broken", help="Leave out files that cannot be read.")] = False,
    root: options.Root = None,
    download: options.Download = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps.")] = "cpu",
    as_json: options.Json = False,
) -> None:
    """Fold gates that hardly depend on the image into the weights, as far as the accuracy allows."""

    def say(step: str) -> None:
        if not as_json:
            error_console().print(f"{step} ...", markup=False)

    check_free(out)
    where = MachineSettings(device=device).resolve_device()
    network = load(model).to(where)
    view = view_of(network, data, limit=limit, skip_broken=skip_broken, root=root, download=bool(download))
    found = fold(network, view, tolerance=tolerance, batch_size=batch_size, progress=say)
    path = found.write(out, source=model)
    if as_json:
        print_json(found.to_json())
        return
    _print(found)
    console().print(f"model: {path}", markup=False, soft_wrap=True)


def _print(found: Folding) -> None:
    table = Table()
    for name in ("site", "gate"):
        table.add_column(name, no_wrap=True)
    for name in ("dynamic", "swing", "change"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("what became of it", overflow="fold")
    for part in found.sites:
        table.add_row(
            part.path, part.part, f"{part.dynamic:.0%}", f"{part.swing:.2g}", f"{part.change:.2g}", part.action
        )
    console().print(table)
    for reason, parts in _kept(found).items():
        console().print(f"kept ({reason}): {', '.join(parts)}", markup=False, soft_wrap=True)
    console().print(str(found), markup=False, soft_wrap=True)


def _kept(found: Folding) -> dict[str, list[str]]:
    """Reason -> the gates that were kept for it."""
    kept: dict[str, list[str]] = {}
    for part in found.sites:
        if part.action == KEPT:
            kept.setdefault(part.reason, []).append(f"{part.path} {part.part}")
    return kept
