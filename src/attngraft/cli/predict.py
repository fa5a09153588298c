"""attngraft predict: classify images with a run."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Annotated

import typer

from ..data import printable
from ..deployment import predict
from ..errors import ConfigError
from .output import error_console, print_raw


def run(
    model: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or a file written by attngraft.save.")],
    images: Annotated[list[Path], typer.Argument(help="Image files or folders.")],
    top: Annotated[int, typer.Option(help="Classes per image.", min=1)] = 1,
    output: Annotated[str, typer.Option(help="csv or json.")] = "csv",
    batch_size: Annotated[int, typer.Option(help="Images per forward pass.", min=1)] = 32,
    skip_broken: Annotated[bool, typer.Option("--skip-broken", help="Leave out files that cannot be read.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps.")] = "cpu",
) -> None:
    """Print the most probable classes of images."""
    if output not in ("csv", "json"):
        raise ConfigError(f"output is '{output}': expected csv or json.")
    found = predict(model, images, batch_size=batch_size, skip_broken=skip_broken, device=device)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # names of files need not be text: their bytes come out again
    print_raw(found.to_csv(top) if output == "csv" else found.to_json(top) + "\n")
    for path, reason in found.skipped:
        error_console().print(f"skipped {printable(path)}: {reason}", markup=False, soft_wrap=True)
