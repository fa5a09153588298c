"""attngraft bench: what attention costs on this machine."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import RunError
from ..files import write_json
from ..interrupts import exit_code
from . import options
from .options import argument, option, switch
from .output import command_line, console, names, print_json, say, say_error

if TYPE_CHECKING:
    from ..benchmarking import BenchResult


def run(
    part: Annotated[str, argument("PART", "modules, models, loop, memory, several with commas, or all.")] = "all",
    attention: Annotated[
        str | None, option("Attentions, comma-separated: cbam,se,eca, with --quick cbam.", "NAMES")
    ] = None,
    dtype: Annotated[str, option("fp32, bf16 or both, comma-separated.", "NAMES")] = "fp32",
    layout: Annotated[str, option("contiguous, channels_last or both, comma-separated.", "NAMES")] = "contiguous",
    backbone: Annotated[
        str | None,
        option("Networks, comma-separated; by default timm's ResNet-18, ResNet-50, EfficientNet-Lite0.", "NAMES"),
    ] = None,
    shapes: Annotated[
        str | None, option("Feature maps CxHxW, comma-separated; by default the five of ResNet-50.", "SHAPES")
    ] = None,
    batch_size: Annotated[int | None, option("Images per batch: 32, with --quick 4.")] = None,
    image_size: Annotated[
        int | None, option("Side of the input in pixels; the backbone's own, with --quick 96.")
    ] = None,
    repeats: Annotated[
        int | None, option("Timed rounds: 15 modules, 9 models, 5 loop, 3 memory; with --quick fewer.")
    ] = None,
    device: options.Device = "auto",
    quick: Annotated[bool, switch("--quick", "A first look: fewer and smaller of everything.")] = False,
    compiled: Annotated[
        bool | None, switch("--compile/--no-compile", "Measure torch.compile of timm's modules too; not with --quick.")
    ] = None,
    out: Annotated[
        Path | None,
        option("New folder for bench.json and report.html.  [default: runs/bench-DATE-TIME]", "FOLDER", *options.OUT),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Measure the cost of attention on this machine.

    It is measured against timm, torch.compile and the cost of moving the data, side by side in one run.
    """
    from ..benchmarking import BENCH_FILE, PARTS, BenchSettings, bench, parse_shapes
    from ..reporting import write_report

    settings = BenchSettings(
        parts=PARTS if part == "all" else names(part),
        attentions=names(attention) if attention is not None else None,
        dtypes=names(dtype),
        layouts=names(layout),
        device=device,
        quick=quick,
        compile=compiled,
        batch_size=batch_size,
        repeats=repeats,
        image_size=image_size,
        backbones=names(backbone) if backbone is not None else None,
        shapes=parse_shapes(shapes) if shapes is not None else None,
    )
    folder = out or Path("runs") / f"bench-{datetime.now(timezone.utc):%Y%m%d-%H%M%S}"
    require_new(folder)

    measured: list[BenchResult] = []

    def keep(result: BenchResult) -> None:
        write_json(folder / BENCH_FILE, result.to_dict())
        measured[:] = [result]

    try:
        result = bench(settings, on_result=keep, command=command_line())
    except KeyboardInterrupt as interrupt:
        _say_interrupted(folder, measured, as_json)
        raise typer.Exit(exit_code(interrupt)) from None
    page = write_report(folder)
    if as_json:
        print_json(result.to_dict())
    else:
        _print(result, page)


def require_new(folder: Path) -> None:
    """Refuse a folder that holds something: a bench is not continued and nothing is overwritten.

    Raises:
        RunError: the folder is not new.
    """
    from ..benchmarking import BENCH_FILE

    if folder.is_dir() and not any(folder.iterdir()):
        return
    if (folder / BENCH_FILE).is_file():
        raise RunError(f"{folder} holds a bench already: choose a new folder, or remove this one.")
    if folder.exists():
        raise RunError(f"{folder} holds something else: choose a new folder.")


def _say_interrupted(folder: Path, measured: list[BenchResult], as_json: bool) -> None:
    """Show what there is, as at the end."""
    from ..reporting import write_report

    for result in measured:
        page = write_report(folder)
        if as_json:
            print_json(result.to_dict())
        else:
            _print(result, page)
    told = f"what was measured so far is in {folder}" if measured else "nothing was measured yet"
    say_error(f"interrupted: {told}.")


def _print(result: BenchResult, page: Path) -> None:
    from ..reporting import bench_notes, bench_tables

    for table in bench_tables(result):
        console().print(table)
    for note in bench_notes(result):
        say(f"not measured: {note}", wrap=True)
    say(f"report: {page}")
