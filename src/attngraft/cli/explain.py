"""attngraft explain: what a trained model's attention does."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..explanation import explain
from ..reporting import write_report
from . import options
from .output import command_line, console, error_console, print_json


def run(
    model: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or a file written by attngraft.save.")],
    images: Annotated[
        str | None,
        typer.Argument(
            metavar="[IMAGES]",
            help="A folder of class folders, a data set, or a folder of images; the run's own test images if not given.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the results; RUN/explanation if not given.")] = None,
    boxes: Annotated[
        Path | None,
        typer.Option(help="CSV with image,x0,y0,x1,y1 in pixels of the image files, for the pointing game."),
    ] = None,
    tolerance: Annotated[float, typer.Option(help="Accuracy that folding may lose, as a fraction.")] = 0.005,
    examples: Annotated[int, typer.Option(help="Images to show.", min=0)] = 8,
    limit: Annotated[int | None, typer.Option(help="Use at most this many images.", min=1)] = None,
    skip_broken: Annotated[bool, typer.Option("--skip-broken", help="Leave out files that cannot be read.")] = False,
    root: options.Root = None,
    download: options.Download = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps.")] = "cpu",
    seed: Annotated[int, typer.Option(help="Of shuffles, bootstraps and sampled permutations.", min=0)] = 0,
    as_json: options.Json = False,
) -> None:
    """See the gates, take them apart, look where the model looks, and what would fold away."""

    def say(step: str) -> None:
        if not as_json:
            error_console().print(f"{step} ...", markup=False)

    found = explain(
        model,
        images,
        out=out,
        boxes=boxes,
        tolerance=tolerance,
        examples=examples,
        limit=limit,
        skip_broken=skip_broken,
        root=root,
        download=bool(download),
        device=device,
        seed=seed,
        command=command_line(),
        progress=say,
    )
    page = write_report(found.folder)
    if as_json:
        print_json(dict(found.document))
        return
    for sentence in found.sentences:
        console().print(sentence, markup=False)
    console().print(f"report: {page}", markup=False, soft_wrap=True)
