"""attngraft compare: with and without attention, honestly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ..comparison import compare, split_variants
from ..reporting import comparison_table, write_report
from . import options
from .output import collect_overrides, command_line, console, data_lines, print_json


def run(
    data: options.Data,
    backbone: options.Backbone,
    attention: Annotated[
        str, typer.Option(help="Variants NAME@WHERE:option=value,..., comma-separated; none is an A/A comparison.")
    ] = "cbam",
    controls: Annotated[str, typer.Option(help="Controls, comma-separated: static, capacity.")] = "",
    seeds: Annotated[str, typer.Option(help="How many seeds, or which: 3, or 0,1,7.")] = "3",
    recipe: options.RecipeName = "three-phase",
    run_dir: Annotated[
        Path | None, typer.Option(help="Folder of the comparison; the same command again continues it.")
    ] = None,
    epochs: options.Epochs = None,
    image_size: options.ImageSize = None,
    batch_size: options.BatchSize = None,
    augment: options.Augment = None,
    pretrained: options.Pretrained = None,
    weights: options.Weights = None,
    precision: options.PrecisionName = None,
    device: options.Device = None,
    workers: options.Workers = None,
    on_nonfinite: options.OnNonfinite = None,
    skip_broken: options.SkipBroken = None,
    fix_leaks: options.FixLeaks = None,
    limit: options.Limit = None,
    root: options.Root = None,
    download: options.Download = None,
    set_: options.Set = None,
    as_json: options.Json = False,
) -> None:
    """Train the backbone with and without attention, with the same seeds, and say what the difference is worth."""
    folder = run_dir or Path("runs") / f"compare-{_slug(data)}-{_slug(backbone)}"
    overrides = collect_overrides(
        set_ or (),
        epochs=epochs,
        image_size=image_size,
        batch_size=batch_size,
        augment=augment,
        precision=precision,
        device=device,
        workers=workers,
        on_nonfinite=on_nonfinite,
        skip_broken=skip_broken,
        fix_leaks=fix_leaks,
        limit=limit,
        root=str(root) if root else None,
        download=download,
    )
    result = compare(
        data,
        backbone=backbone,
        attentions=split_variants(attention),
        controls=split_variants(controls),
        seeds=_seeds(seeds),
        recipe=recipe,
        pretrained=pretrained,
        weights=weights,
        run_dir=folder,
        command=command_line(),
        **overrides,
    )
    page = write_report(result.run_dir)
    if as_json:
        print_json(json.loads(result.to_json()))
        return
    out = console()
    out.print(comparison_table(result.document))
    for line in data_lines(result.document["data"]):
        out.print(f"note: {line}", markup=False)
    out.print(str(result), markup=False, style="bold")
    out.print(f"report: {page}", markup=False, soft_wrap=True)


def _seeds(text: str) -> int | list[int]:
    parts = text.split(",")
    if not all(part.strip().isdigit() for part in parts):
        raise typer.BadParameter(
            f"'{text}': expected a number such as 3, or a list such as 0,1,7.", param_hint="--seeds"
        )
    numbers = [int(part) for part in parts]
    return numbers[0] if len(numbers) == 1 else numbers


def _slug(text: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in Path(text).name or text).strip("-")
