"""attngraft predict: predict images with a run."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Annotated

from ..errors import ConfigError
from . import options
from .options import argument, option, switch
from .output import print_raw, say_error


def run(
    model: options.Model,
    images: Annotated[list[Path], argument("IMAGES...", "Image files or folders.")],
    top: Annotated[int, option("Number of classes per image.", min=1)] = 1,
    output: Annotated[str, option("Format.", "csv|json")] = "csv",
    batch_size: options.BatchSize = 32,
    skip_broken: Annotated[
        bool, switch("--skip-broken", "Leave out files that cannot be read, and report them.")
    ] = False,
    device: options.Device = "cpu",
    precision: Annotated[str, option("Number format: auto for that of the run, or fp32, bf16.", "NAME")] = "auto",
) -> None:
    """Print predictions for images: classes, labels or numbers."""
    from ..data import printable
    from ..deployment import predict

    if output not in ("csv", "json"):
        raise ConfigError(f"output is '{output}': expected csv or json.")
    found = predict(model, images, batch_size=batch_size, skip_broken=skip_broken, device=device, precision=precision)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # names of files need not be text: their bytes come out again
    print_raw(found.to_csv(top) if output == "csv" else found.to_json(top) + "\n")
    for path, reason in found.skipped:
        say_error(f"skipped {printable(path)}: {reason}")
    for note in found.notes:
        say_error(note)
